"""YAML text -> workflows, every fault with its place.  Pure.

The modules behind it, from the bottom up: `nodes` (plain data with places), `yamltext` (text to nodes, within
budgets), `kinds`, `compound` and `inference` (what a field's value may be),
`fields` (the one table of the language, which also makes the JSON Schema in `schema`), `parts`, `asking` and
`reader` (fields to steps).  Beside them is `split`: a file as the pieces of its documents.
"""

from llmc_build.workflow.inference import grammar_faults, schema_of_file, taken_in
from llmc_build.workflow.reader import Draft, parse, read
from llmc_build.workflow.split import split

__all__ = ["Draft", "grammar_faults", "parse", "read", "schema_of_file", "split", "taken_in"]
