"""The door to everything about `{{ }}`: references, filters, conditions, prompts.  Pure.

Owns nothing itself.  `placeholder` has the grammar, `filters` what filters do, `condition` the
expressions of `if`, `promptdoc` the prompts, with their Jinja2 blocks.
"""

from llmc_build.filters import apply_filters
from llmc_build.placeholder import (
    FILTERS,
    Problem,
    PromptError,
    Ref,
    Template,
    TemplateError,
    parse,
)
from llmc_build.template.condition import Condition, parse_condition
from llmc_build.template.conditiontree import ConditionError
from llmc_build.template.promptdoc import Prompt, parse_prompt

__all__ = [
    "FILTERS",
    "Condition",
    "ConditionError",
    "Problem",
    "Prompt",
    "PromptError",
    "Ref",
    "Template",
    "TemplateError",
    "apply_filters",
    "parse",
    "parse_condition",
    "parse_prompt",
]
