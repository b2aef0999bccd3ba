#!/usr/bin/env python3
"""Let checkpoints answer two questions, greedily, in plain transformers.

scripts/answer.py CHECKPOINT [CHECKPOINT ...]
"""

from __future__ import annotations

import sys
import textwrap

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, logging

QUESTIONS = ("How was your day?", "It has rained all week. What do you think of that?")

logging.set_verbosity_error()
logging.disable_progress_bar()
models = {folder: AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32) for folder in sys.argv[1:]}
for question in QUESTIONS:
    print(f"\n> {question}")
    for folder, model in models.items():
        tokenizer = AutoTokenizer.from_pretrained(folder)
        inputs = tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        tokens = model.generate(**inputs, do_sample=False, temperature=None, top_p=None, top_k=None, max_new_tokens=50)
        answer = tokenizer.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        print(textwrap.fill(" ".join(answer.split()), 100, initial_indent=f"{folder}: ", subsequent_indent="    "))
