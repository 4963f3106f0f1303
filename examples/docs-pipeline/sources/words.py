def count_words(text):
    """How often each word occurs."""
    counts = {}
    for word in text.lower().split():
        counts[word] = counts.get(word, 0) + 1
    return counts


def most_common(counts):
    return max(counts, key=counts.get)
