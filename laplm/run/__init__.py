"""From logits to tokens to text: sampling, generation, evaluation."""
