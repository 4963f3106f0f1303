"""Values in shell scripts: no byte of a value ever enters the text of a script.  Pure.

From the bottom up: `tree` (what a script consists of), `word`, `command` and `scan` (text to tree, and the
quoting around each placeholder), `table`, `options`, `proven` and `lint` (what is parsed again as code),
`rewrite` (the face: a template becomes a script) and `prelude` (what fills its variables at run time).

Nothing is re-exported here: a worker needs `prelude` alone, and has to start fast.
"""
