"""Inference: where a model comes from, the engine that answers prompts, and the workers around it.

    models   a model reference -> a file          gguf     what a model file says of itself
    engine   many requests on one loaded model    prompts, vocabulary, sampler, stops   its parts
    native   the binding to llama.cpp, quietened  cores    how many threads are worth it
    chat     messages -> the text a model reads   serve    the model worker
    http     the worker for OpenAI-compatible servers

Nothing is imported here: only a model worker may import `native` and what needs it (`engine`, `prompts`,
`vocabulary`, `sampler`), since loading llama.cpp takes a fifth of a second and can end the process.
"""
