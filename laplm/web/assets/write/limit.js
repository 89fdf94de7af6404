// Why texts stopped that their model did not end, and what to do.

/**
 * @param {{written: number[], cut: number[]}} told how many tokens each sample got; those that
 *   stopped at a limit
 * @param {number} most tokens that were asked for @param {boolean} chosen in the settings
 */
export function limitOf({ written, cut }, most, chosen) {
  if (!cut.length) return "";
  if (cut.every((i) => written[i] < most))
    return "Stopped: the text fills the model’s context. A shorter prompt leaves it room.";
  if (written.length === 1)
    return (
      `Stopped at the limit of ${most} tokens: Continue writes on` +
      `${chosen ? ", Settings has the limit" : ""}.`
    );
  const many = `${cut.length} of ${written.length}`;
  return `${many} stopped at the limit of ${most} tokens: Settings has it.`;
}
