// The page's address: which tab is shown, and the prompt that all tabs share: `#/look?text=…`.

const LONGEST = 4000; // characters that an address may hold; a longer prompt is kept by the browser
const BEFORE = { teach: "tune" }; // names that tabs had

/** @returns {{tab: string, text: string | null}} what the address says now */
export function readAddress() {
  const [path, query = ""] = location.hash.slice(2).split("?");
  return { tab: BEFORE[path] ?? path, text: new URLSearchParams(query).get("text") };
}

/** Write the address, without a step in the browser's history. */
export function writeAddress({ tab, text }) {
  // With a slash, for a browser would begin with Tab at an element of that very name, and pass by
  // what stands above it.
  const query = text && text.length <= LONGEST ? `?text=${encodeURIComponent(text)}` : "";
  history.replaceState(null, "", `#/${tab}${query}`);
}
