// The stages of one pass, in the order of the talk, and what each does in a plain sentence.

/** @type {{name: string, title: string, sentence: string}[]} */
export const STAGES = [
  { name: "tokens", title: "Tokens",
    sentence: "The text is cut into tokens: words and pieces of words that the model has in its vocabulary. Each has a number, and numbers are all that the model sees." },
  { name: "embeddings", title: "Embeddings",
    sentence: "Each token’s number is looked up in a table and becomes a vector: a point in a space of many dimensions, where tokens of similar use lie near one another. Here are the two directions in which these points differ most." },
  { name: "positions", title: "Positions",
    sentence: "A second vector, one for each position, is added, because what follows has no other way to know which token came first." },
  { name: "block", title: "The tower of blocks",
    sentence: "The vectors pass through a tower of blocks of one build. Each block adds something to every vector; open one to see what." },
  { name: "norm", title: "Layer norm",
    sentence: "Before each step the vector’s numbers are shifted to mean 0 and scaled to variance 1, then given a learned gain and shift. It keeps the numbers in a range that the next step can use." },
  { name: "attention", title: "Attention",
    sentence: "Each head lets a token look back at the tokens before it and fetch something from them. A row of a map is a token that looks, a column one that is looked at. Choose a head to switch it off and watch the next token’s bars." },
  { name: "residual", title: "Residual stream",
    sentence: "What attention found is added to the vector that was there: X + ΔX. Nothing is overwritten; every block only adds." },
  { name: "feed", title: "Feed-forward",
    sentence: "Then each token is worked on by itself: many neurons look for patterns in its vector, and each that finds one adds its own vector. These are the strongest here." },
  { name: "final", title: "Final norm",
    sentence: "After the last block there is one more layer norm. What comes out is all that the model knows about what comes next." },
  { name: "logits", title: "Logits",
    sentence: "The vector is compared with every token of the vocabulary, which gives each a score, its logit. Read the same way after every block, it shows when the answer appears (the logit lens)." },
  { name: "sampling", title: "From logits to a token",
    sentence: "Scores become probabilities, and one token is drawn. Temperature, top-k and top-p decide how daring the draw is." },
];
