"""Messages to the tokens that a model reads.

Owns which text a request becomes and which of its tokens may be special.  Rendering a chat template is
`chat`; tokenisation is `vocabulary`.

Theory of operation.  A chat template marks turns with control tokens: `<|im_start|>user\\n...<|im_end|>`.
Its output must be tokenised so that these texts become control tokens, but the same text inside of a
message must not: else a value could end its own turn and speak as the system.  So

1. The template is rendered as it is.  This is the text that is logged, and almost always its tokens are used.
2. It is rendered again with each message's content between two marks, characters that occur nowhere else.
   That cuts the text into stretches that the template wrote and stretches that messages wrote.
3. Where the template's stretches alone have the same control tokens as the whole text, no message
   contributed one, and the tokens of the whole text are right.
4. Otherwise each stretch is tokenised by itself, special tokens being read only in the template's.  (At the
   borders the tokens may be others than in one piece; that is the price, and it is always the same.)
5. Where the marks don't survive the template, since it takes contents apart or escapes them, a request is
   refused if a content has the text of a control token, and otherwise the tokens of the whole text are right.

The marks stand inside of a content's surrounding white space, so that templates may trim it.
Tokens that a vocabulary calls "user defined" (`<think>` in some) are read from any text by llama.cpp itself.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from llmc_build.frozen import frozen
from llmc_build.llm.chat import ChatTemplateError, render_chat
from llmc_build.llm.vocabulary import Vocabulary

Message = dict[str, str]  # {"role": ..., "content": ...}
_PRIVATE_USE = range(0xE000, 0xF8FF)


class PromptError(Exception):
    """The request can't be put to this model.  One line."""


@frozen(kw_only=True)
class Prompt:
    """What the model reads."""

    text: str  # as rendered, for the log
    tokens: tuple[int, ...]


def read_prompt(
    vocabulary: Vocabulary, template: str | None, messages: Sequence[Message], chat: bool | None
) -> Prompt:
    """The prompt of a request; `chat` None: by the chat template where the model has one.

    Raises PromptError.
    """
    if chat is None:
        chat = template is not None
    if not chat:
        text = "\n\n".join(message["content"] for message in messages)
        tokens = vocabulary.tokenize(text, special=False)
    elif template is None:
        raise PromptError("the model has no chat template: give `chat: false` to complete the raw prompt")
    else:
        text = _render(vocabulary, template, messages)
        tokens = _chat_tokens(vocabulary, template, messages, text)
    if vocabulary.adds_bos and vocabulary.bos is not None and tokens[:1] != [vocabulary.bos]:
        tokens = [vocabulary.bos, *tokens]
    if not tokens:
        raise PromptError("the prompt is empty")
    return Prompt(text=text, tokens=tuple(tokens))


def _render(vocabulary: Vocabulary, template: str, messages: Sequence[Message]) -> str:
    bos, eos = vocabulary.name(vocabulary.bos), vocabulary.name(vocabulary.eos)
    try:
        return render_chat(template, list(messages), bos=bos, eos=eos)
    except ChatTemplateError as error:
        raise PromptError(f"the model's chat template refuses the messages: {error}") from None


def _chat_tokens(vocabulary: Vocabulary, template: str, messages: Sequence[Message], text: str) -> list[int]:
    whole = vocabulary.tokenize(text, special=True)
    stretches = _stretches(vocabulary, template, messages, text)
    if stretches is None:
        for message in messages:
            _refuse_special(vocabulary, message["content"])
        return whole
    parts = [(foreign, vocabulary.tokenize(stretch, special=not foreign)) for foreign, stretch in stretches]
    own = [token for foreign, tokens in parts if not foreign for token in tokens]
    if _special(vocabulary, own) == _special(vocabulary, whole):
        return whole
    return [token for _, tokens in parts for token in tokens]


def _special(vocabulary: Vocabulary, tokens: Sequence[int]) -> list[int]:
    return [token for token in tokens if vocabulary.is_special(token)]


def _refuse_special(vocabulary: Vocabulary, content: str) -> None:
    found = _special(vocabulary, vocabulary.tokenize(content, special=True))
    if found:
        raise PromptError(
            f"a message contains the text of the model's special token {vocabulary.name(found[0])}, and the "
            "model's chat template rewrites messages, so that it can't be told from the template's own"
        )


def _stretches(
    vocabulary: Vocabulary, template: str, messages: Sequence[Message], text: str
) -> list[tuple[bool, str]] | None:
    """The text in order, cut into (written by a message, stretch); None where that can't be told."""
    before, after = _marks(template, messages)
    marked = [{**message, "content": _mark(message["content"], before, after)} for message in messages]
    try:
        rendered = _render(vocabulary, template, marked)
    except PromptError:
        return None
    pieces = re.split(f"([{before}{after}])", rendered)
    stretches, signs = pieces[::2], pieces[1::2]
    if "".join(stretches) != text or signs != [before, after] * (len(signs) // 2):
        return None
    return [(i % 2 == 1, stretch) for i, stretch in enumerate(stretches) if stretch]


def _marks(template: str, messages: Sequence[Message]) -> tuple[str, str]:
    used = set(template).union(*(message["content"] for message in messages))
    free = [chr(code) for code in _PRIVATE_USE if chr(code) not in used][:2]
    if len(free) < 2:
        raise PromptError("the messages use every private-use character of Unicode")
    return free[0], free[1]


def _mark(content: str, before: str, after: str) -> str:
    core = content.strip()
    if not core:
        return content
    at = content.index(core)
    return f"{content[:at]}{before}{core}{after}{content[at + len(core) :]}"
