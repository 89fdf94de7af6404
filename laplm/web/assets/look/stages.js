// The stages of one pass, in the order of the talk, and what each does in a plain sentence.

/** @type {{name: string, title: string, sentence: string}[]} */
export const STAGES = [
  {
    name: "tokens",
    title: "Tokens",
    sentence:
      "The text is cut into tokens: words and pieces of words that the model " +
      "has in its vocabulary. Each has a number, and numbers are all that the " +
      "model sees.",
  },
  {
    name: "embeddings",
    title: "Embeddings",
    sentence:
      "Each token’s number is looked up in a table and becomes a vector: a " +
      "point in a space of many dimensions, where tokens of similar use lie " +
      "near one another. Here are the two directions in which these points " +
      "differ most.",
  },
  {
    name: "positions",
    title: "Positions",
    sentence:
      "A second vector, one for each position, is added, because what follows " +
      "has no other way to know which token came first.",
  },
  {
    name: "block",
    title: "Layers",
    sentence:
      "The vectors pass through layers (blocks) that are built alike. Each " +
      "layer adds something to every vector; open one to see what.",
  },
  {
    name: "norm",
    title: "Layer norm",
    sentence:
      "Before each step the vector’s numbers are shifted to mean 0 and scaled " +
      "to variance 1, then given a learned gain and shift. It keeps the " +
      "numbers in a range that the next step can use.",
  },
  {
    name: "attention",
    title: "Attention",
    sentence:
      "Each head lets a token attend to the tokens before it and copy " +
      "something from them. A row of a map is the query (the token that " +
      "attends), a column the key (the token attended to). Choose a head to " +
      "switch it off and watch the next token’s bars.",
  },
  {
    name: "residual",
    title: "Residual stream",
    sentence:
      "What attention found is added to the vector that was there: X + ΔX. " +
      "Nothing is overwritten; every layer only adds.",
  },
  {
    name: "feed",
    title: "Feed-forward",
    sentence:
      "Then each token is worked on by itself: each neuron reads one pattern " +
      "from its vector; its activation says how much of it there is, and the " +
      "neuron adds its own vector by that much, which promotes some tokens and " +
      "suppresses others. These are the most active here.",
  },
  {
    name: "final",
    title: "Final norm",
    sentence:
      "After the last layer there is one more layer norm. What comes out is " +
      "all that the model knows about what comes next.",
  },
  {
    name: "logits",
    title: "Logits",
    sentence:
      "The vector is compared with every token of the vocabulary, which gives " +
      "each a logit. Read the same way after every layer, it shows when the " +
      "answer appears (the logit lens).",
  },
  {
    name: "sampling",
    title: "From logits to a token",
    sentence:
      "Softmax turns the logits into probabilities, and one token is sampled. " +
      "Temperature, top-k and top-p say how flat the distribution is and which " +
      "tokens are left in it.",
  },
];
