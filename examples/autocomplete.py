"""A writer's autocomplete: you begin, the model offers three ways on, you take one or write.

Needs `laplm serve` running on this machine, and `pip install openai`.
"""

import os

from openai import OpenAI

client = OpenAI(
    base_url=os.environ.get("LAPLM_URL", "http://127.0.0.1:8080/v1"),
    api_key=os.environ.get("LAPLM_API_KEY", "none is needed on this machine"),
)
model = client.models.list().data[0].id

text = input("Begin: ")
while text:
    offers = client.completions.create(
        model=model, prompt=text, n=3, max_tokens=20, temperature=0.8, stop=["\n"]
    )
    ways = [choice.text for choice in offers.choices]
    print(f"\n{text}")
    for number, way in enumerate(ways, 1):
        print(f"  {number}{way}")
    answer = input("1, 2, 3, words of your own, or nothing to end: ")
    if not answer:
        break
    text += ways[int(answer) - 1] if answer in ("1", "2", "3") else f" {answer}"
print(text)
