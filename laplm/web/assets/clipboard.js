// Copying a text.

/** @returns {Promise<string>} what is said when it cannot be done; empty when it was */
export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return "";
  } catch {
    return "The browser does not allow to copy.";
  }
}
