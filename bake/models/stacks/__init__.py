"""Running a model in the stacks that will serve it, each in an environment of its own.

`run_stack` starts ``start.py`` beside this file with the interpreter of an environment that has the stack, and that
one the stack's ``run_*.py``. The scripts need the standard library and their stack, not emobake. Request and response
are JSON files:

    {"stack": "vllm", "checkpoint": "/abs/path", "prompts": [[1, 2], [3]], "max_new_tokens": 60, "eos_token_ids": [2]}
    {"stack": "vllm", "version": "0.32.0", "tokens": [[5, 6], [7]]}

Decoding is greedy and in float32. It stops at an end-of-sequence token; stacks differ in whether they report that
token, so a trailing one is cut off. Exit code 3 means that the interpreter cannot import the stack.
"""

from .launcher import Generation, eos_token_ids, run_stack

__all__ = ["Generation", "eos_token_ids", "run_stack"]
