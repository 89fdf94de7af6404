"""The talk's own way to run GPT-2, for the cold-start comparison: python talk_script.py MODEL N."""

import sys

import torch
from transformers import GPT2LMHeadModel, GPT2Tokenizer

model_name, new_tokens = sys.argv[1], int(sys.argv[2])
torch.manual_seed(42)
tokenizer = GPT2Tokenizer.from_pretrained(model_name)
model = GPT2LMHeadModel.from_pretrained(model_name)
model.eval()
inputs = tokenizer("The capital of Spain is", return_tensors="pt")
with torch.no_grad():
    outputs = model.generate(
        **inputs,
        max_new_tokens=new_tokens,
        do_sample=True,
        temperature=0.8,
        top_k=40,
        pad_token_id=tokenizer.eos_token_id,
    )
print(tokenizer.decode(outputs[0], skip_special_tokens=True), flush=True)
