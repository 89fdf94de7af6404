// The list of all runs, and several of them on one chart.

import { get, remove } from "../api.js";
import { curves } from "../charts.js";
import { h, keepFocus, replace } from "../dom.js";
import { refreshModels } from "../models-list.js";
import { atRest, titleOf, wordsOf } from "./states.js";

const COLOURS = 5; // curves that are told apart on one chart

/** The chart of the runs that are compared, so wide; nothing for fewer than two. */
function chart(runs, room) {
  if (runs.length < 2) return [];
  return [
    curves({
      title: `Held-out loss of ${runs.map(titleOf).join(", ")}`,
      xLabel: "steps",
      room,
      series: runs.map((entry) => ({
        name: titleOf(entry),
        points: entry.heldout_losses,
        dots: true,
      })),
    }),
    h("p", {
      class: "note",
      text:
        "How much held-out documents surprise each model (loss; lower is better). Runs on " +
        "different texts cannot be compared so.",
    }),
  ];
}

export class RunsList {
  /**
   * @param {{open: (entry: any) => void, told: (all: any[]) => void, gone: (entry: any) => void,
   *   fail: (problem: Error) => void}} of what is done when runs are chosen, listed, deleted
   */
  constructor(of) {
    this.of = of;
    this.left = new Set(); // ids that are not compared
    this.list = h("ul", { class: "runs" });
    this.chart = h("div");
    // The column is narrower when a run is shown beside it.
    new ResizeObserver(() => {
      if (this.chart.clientWidth !== this.across) this.#drawChart();
    }).observe(this.chart);
    this.compared = [];
    this.element = h(
      "div",
      { class: "card list", hidden: true },
      h("h3", { text: "All runs" }),
      this.list,
      this.chart,
    );
  }

  /** Ask which runs there are, and draw them. */
  async refresh() {
    let all;
    try {
      all = (await get("/api/tune")).runs;
    } catch {
      return; // the tab works without the list
    }
    this.of.told(all);
    // What has not changed is not drawn again: somebody may be on a button of it.
    const now = JSON.stringify(all.map((e) => [e.id, wordsOf(e), titleOf(e), e.heldout_losses]));
    if (now === this.drawn) return;
    this.drawn = now;
    this.all = all;
    this.draw();
  }

  draw() {
    this.element.hidden = !this.all.length;
    const curved = this.all.filter((entry) => entry.heldout_losses?.length);
    const compared = curved.filter((entry) => !this.left.has(entry.id)).slice(0, COLOURS);
    keepFocus(this.list, () =>
      replace(
        this.list,
        this.all.map((entry) => this.#row(entry, compared.indexOf(entry), curved)),
      ),
    );
    this.compared = compared;
    this.#drawChart();
  }

  #drawChart() {
    this.across = this.chart.clientWidth;
    replace(this.chart, chart(this.compared, this.across));
  }

  #row(entry, place, curved) {
    const title = titleOf(entry);
    const compare =
      curved.length > 1 && curved.includes(entry)
        ? h("input", {
            type: "checkbox",
            checked: place >= 0,
            "data-key": `compare ${entry.id}`,
            "aria-label": `Compare ${title}`,
            onchange: (event) => {
              if (event.target.checked) this.left.delete(entry.id);
              else this.left.add(entry.id);
              this.draw();
            },
          })
        : null;
    return h(
      "li",
      { class: "row" },
      compare,
      compare && place >= 0 ? h("span", { class: `swatch c${place}` }) : null,
      h("button", {
        type: "button",
        text: title,
        onclick: () => this.of.open(entry),
        "data-key": `open ${entry.id}`,
        "aria-label": `Show the run ${title}`,
      }),
      h("span", { class: "note", text: `${entry.name}, ${entry.model}; ${wordsOf(entry)}` }),
      atRest(entry)
        ? h("button", {
            type: "button",
            class: "quiet",
            text: "Delete",
            "data-key": `delete ${entry.id}`,
            "aria-label": `Delete the run ${title}`,
            onclick: () => this.#forget(entry),
          })
        : null,
    );
  }

  async #forget(entry) {
    const own = entry.directory.includes(entry.id);
    const asked = own
      ? `Delete the run “${titleOf(entry)}” and the model that it made?`
      : `Take “${titleOf(entry)}” off this list? Its files stay in ${entry.directory}.`;
    if (!confirm(asked)) return;
    try {
      await remove(`/api/tune/${encodeURIComponent(entry.id)}`);
      this.of.gone(entry);
      await refreshModels();
    } catch (problem) {
      this.of.fail(problem);
    }
    this.refresh();
  }
}
