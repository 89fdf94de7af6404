// Texts to try tuning with: one of verses that everybody knows, one made here.

const END = "\n<|endoftext|>\n";

// Traditional, in the public domain.
const RHYMES = [
  "Hey diddle diddle,\nThe cat and the fiddle,\nThe cow jumped over the moon.",
  "The little dog laughed\nTo see such sport,\nAnd the dish ran away with the spoon.",
  "Humpty Dumpty sat on a wall,\nHumpty Dumpty had a great fall.",
  "All the king's horses and all the king's men\nCouldn't put Humpty together again.",
  "Jack and Jill went up the hill\nTo fetch a pail of water.",
  "Jack fell down and broke his crown,\nAnd Jill came tumbling after.",
  "Twinkle, twinkle, little star,\nHow I wonder what you are!",
  "Up above the world so high,\nLike a diamond in the sky.",
  "Mary had a little lamb,\nIts fleece was white as snow.",
  "And everywhere that Mary went\nThe lamb was sure to go.",
  "It followed her to school one day,\nWhich was against the rule.",
  "It made the children laugh and play\nTo see a lamb at school.",
  "Baa, baa, black sheep,\nHave you any wool?\nYes, sir, yes, sir,\nThree bags full.",
  "One for the master,\nAnd one for the dame,\nAnd one for the boy\nWho lives down the lane.",
  "Little Miss Muffet\nSat on a tuffet,\nEating her curds and whey.",
  "There came a big spider,\nWho sat down beside her,\nAnd frightened Miss Muffet away.",
  "Little Jack Horner\nSat in the corner,\nEating a Christmas pie.",
  "He put in his thumb,\nAnd pulled out a plum,\nAnd said, What a good boy am I!",
  "Hickory, dickory, dock,\nThe mouse ran up the clock.",
  "The clock struck one,\nThe mouse ran down,\nHickory, dickory, dock.",
  "Little Bo-Peep has lost her sheep,\nAnd can't tell where to find them.",
  "Leave them alone, and they'll come home,\nWagging their tails behind them.",
  "Pussy cat, pussy cat, where have you been?\nI've been to London to see the queen.",
  "Pussy cat, pussy cat, what did you there?\nI frightened a little mouse under her chair.",
  "Rain, rain, go away,\nCome again another day.\nLittle Johnny wants to play.",
  "Row, row, row your boat\nGently down the stream.",
  "Merrily, merrily, merrily, merrily,\nLife is but a dream.",
  "London Bridge is falling down,\nFalling down, falling down.",
  "Jack be nimble,\nJack be quick,\nJack jump over\nThe candlestick.",
  "Ring around the rosie,\nA pocket full of posies.",
  "Sing a song of sixpence,\nA pocket full of rye,\nFour and twenty blackbirds\nBaked in a pie.",
  "When the pie was opened\nThe birds began to sing:\nWas that not a dainty dish for a king?",
  "Old Mother Hubbard\nWent to the cupboard\nTo give her poor dog a bone.",
  "When she got there,\nThe cupboard was bare,\nAnd so the poor dog had none.",
  "Three blind mice, three blind mice,\nSee how they run, see how they run!",
  "Georgie Porgie, pudding and pie,\nKissed the girls and made them cry.",
];

const CAPTAINS = ["Anne", "Bill", "Red Tom", "Old Meg"];
const SHIPS = ["the Sea Cat", "the Black Goose", "the Salty Pig"];
const FINDS = ["a map", "a green parrot", "a box of gold", "a bottle with a letter"];
const ENDS = [
  "“Arr!” said the captain. “That is ours now.” And they sang all night.",
  "The crew danced on the deck, and the moon came up over the sea.",
  "“Up with the sails!” the captain cried, and the wind took them home.",
];

/** Short tales of pirates, each another one. */
function pirateTales() {
  const tales = [];
  for (const [i, captain] of CAPTAINS.entries())
    for (const [j, ship] of SHIPS.entries())
      for (const [k, find] of FINDS.entries())
        tales.push(
          [
            `Captain ${captain} sailed the seas in ${ship}.`,
            `One day the pirates found ${find}.`,
            ENDS[(i + j + k) % ENDS.length],
          ].join(" "),
        );
  return tales;
}

/** @type {{title: string, file: string, documents: string[]}[]} */
const EXAMPLES = [
  { title: "Pirate tales", file: "pirates.txt", documents: pirateTales() },
  { title: "Nursery rhymes", file: "rhymes.txt", documents: RHYMES },
];

/** What can be taken: a title, the file's name, its text. */
export const exampleTexts = EXAMPLES.map(({ title, file, documents }) => ({
  title: `${title} (${documents.length})`,
  file,
  text: documents.join(END) + END,
}));
