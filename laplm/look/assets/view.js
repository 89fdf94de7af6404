/* A view's page: what one can point at, click and reach by the keyboard. It is put into the page
   itself, under a content policy that lets nothing else run and loads nothing. Texts become text
   nodes alone, never markup. */
"use strict";
(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const VIRIDIS = [
    "440154", "481f70", "443983", "3b528b", "31688e", "287c8e", "21918c", "20a486", "35b779",
    "5ec962", "90d743", "c8e020", "fde725",
  ];
  const PURPLE_ORANGE = {
    light: ["7f3b08", "b25706", "e08214", "fcb761", "fee0b6", "f6f6f7", "d8daeb", "b1aad1",
      "8073ac", "532687", "2d004b"],
    dark: ["ffc27a", "f0983a", "c26a12", "7d4716", "46301d", "26282e", "302c4a", "4c4382",
      "7566b8", "9f92dd", "cfc6ff"],
  };
  const ROWS = 24; // of a table, until all are asked for
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const redraws = [];
  dark.addEventListener("change", () => redraws.forEach((draw) => draw()));

  // --- small things -----------------------------------------------------------------------------

  function make(tag, attributes = {}, ...children) {
    return fill(document.createElement(tag), attributes, children);
  }

  function draw(tag, attributes = {}, ...children) {
    return fill(document.createElementNS(SVG, tag), attributes, children);
  }

  function fill(element, attributes, children) {
    for (const [name, value] of Object.entries(attributes)) {
      if (value === null || value === undefined || value === false) continue;
      element.setAttribute(name, value === true ? "" : value);
    }
    element.append(...children.filter((child) => child !== null));
    return element;
  }

  const colour = (name) => getComputedStyle(document.body).getPropertyValue(name).trim();

  function blend(colours, share) {
    const at = Math.min(Math.max(share, 0), 1) * (colours.length - 1);
    const i = Math.min(Math.floor(at), colours.length - 2);
    const parts = [0, 2, 4].map((j) => {
      const [a, b] = [colours[i], colours[i + 1]].map((c) => parseInt(c.slice(j, j + 2), 16));
      return Math.round(a + (b - a) * (at - i));
    });
    return parts;
  }

  /** Black or white, whichever is easier to read on a colour (W3C's relative luminance). */
  function ink(rgb) {
    const [r, g, b] = rgb.map((c) => {
      const share = c / 255;
      return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.179 ? "#000" : "#fff";
  }

  const percent = (share) => {
    const value = 100 * share;
    if (value > 0 && value < 0.05) return "less than 0.1%";
    return `${value.toFixed(value >= 10 || value === 0 ? 0 : 1)}%`;
  };

  const short = (text, most) => (text.length <= most ? text : `${text.slice(0, most - 1)}…`);

  function bytes(text) {
    const raw = atob(text);
    const out = new Uint8Array(raw.length);
    for (let i = 0; i < raw.length; i += 1) out[i] = raw.charCodeAt(i);
    return out.buffer;
  }

  /** Where a section says in words what is pointed at. */
  function readout(section, rest) {
    const line = make("output", { class: "readout", "aria-live": "polite" });
    line.textContent = rest;
    section.append(line);
    let pinned = rest;
    return {
      say: (text) => (line.textContent = text),
      pin: (text) => (line.textContent = pinned = text),
      back: () => (line.textContent = pinned),
    };
  }

  /** One of several things has the focus; arrow keys go to its neighbours. */
  function roving(elements, columns, choose) {
    let at = 0;
    const focus = (i) => {
      elements[at].setAttribute("tabindex", "-1");
      at = i;
      elements[at].setAttribute("tabindex", "0");
    };
    elements.forEach((element, i) => {
      element.setAttribute("tabindex", i ? "-1" : "0");
      element.addEventListener("focus", () => focus(i));
      element.addEventListener("keydown", (event) => {
        const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns };
        const next = { Home: 0, End: elements.length - 1 }[event.key] ?? i + step[event.key];
        if (event.key === "Enter" || event.key === " ") choose(i);
        else if (elements[next]) elements[next].focus();
        else return;
        event.preventDefault();
      });
    });
    return focus;
  }

  // --- a matrix as colours ----------------------------------------------------------------------

  /**
   * @param {object} data values, rows, columns (their labels), diverging, digits, limit, texts (in
   *   the cells), tips (for the pointer), share (values are shares, shown in percent).
   * @param {object} line where it is said what is pointed at.
   */
  function heatmap(box, data, line, told) {
    const rows = data.rows.length;
    const columns = data.columns.length;
    const values = data.values;
    let most = 0;
    let least = 0;
    for (const value of values) {
      if (!Number.isFinite(value)) continue;
      most = Math.max(most, data.diverging ? Math.abs(value) : value);
      least = Math.min(least, value);
    }
    if (data.limit) most = data.limit;
    const [low, high] = data.diverging ? [-(most || 1), most || 1] : [least, most > least ? most : least + 1];
    const canvas = make("canvas", {
      tabindex: "0", role: "img",
      "aria-label": `${data.title}: ${rows} rows, ${columns} columns; arrow keys read the cells`,
    });
    const frame = make("div", { class: "scroll" }, canvas);
    box.append(frame, legend(low, high, data));
    let at = null;
    let pinned = null;
    let size = null;

    const number = (value) => {
      if (!Number.isFinite(value)) return "";
      if (data.share) return percent(value);
      return `${data.diverging && value > 0 ? "+" : ""}${value.toFixed(data.digits)}`;
    };
    const text = ([i, j]) => {
      const value = values[i * columns + j];
      if (data.tips?.length) return `${told(i, j)}: ${data.tips[i][j]}`;
      return Number.isFinite(value) ? `${told(i, j)}: ${number(value)}` : `${told(i, j)}: nothing`;
    };

    function measure(context) {
      context.font = "12px system-ui, sans-serif";
      const longest = (labels) =>
        Math.max(...labels.map((label) => context.measureText(short(label, 18)).width), 8);
      const left = Math.ceil(Math.min(150, longest(data.rows)) + 10);
      const across = longest(data.columns);
      const room = Math.max(180, box.clientWidth - left - 14);
      const wanted = data.texts?.length ? 74 : 46;
      const width = Math.max(7, Math.min(wanted, room / columns));
      const readable = data.texts?.length ? Math.max(width, 56) : width;
      const height = rows > 60 ? Math.max(5, Math.min(22, 900 / rows)) : 22;
      const upright = across > readable - 4;
      const top = upright ? Math.ceil(Math.min(120, across) + 10) : 20;
      return { left, top, width: readable, height, upright };
    }

    function redraw() {
      const context = canvas.getContext("2d");
      size = measure(context);
      const { left, top, width, height, upright } = size;
      const [w, h] = [left + columns * width + 4, top + rows * height + 4];
      const scale = Math.min(devicePixelRatio || 1, 2);
      canvas.width = Math.ceil(w * scale);
      canvas.height = Math.ceil(h * scale);
      canvas.style.width = `${w}px`;
      canvas.style.height = `${h}px`;
      context.setTransform(scale, 0, 0, scale, 0, 0);
      context.clearRect(0, 0, w, h);
      const palette = data.diverging ? PURPLE_ORANGE[dark.matches ? "dark" : "light"] : VIRIDIS;
      const here = at ?? pinned;
      const empty = colour("--empty");
      context.textBaseline = "middle";
      context.font = "11px system-ui, sans-serif";
      for (let i = 0; i < rows; i += 1) {
        for (let j = 0; j < columns; j += 1) {
          const value = values[i * columns + j];
          const [x, y] = [left + j * width, top + i * height];
          if (!Number.isFinite(value)) {
            context.fillStyle = empty;
            context.fillRect(x, y, width - 1, height - 1);
            continue;
          }
          const rgb = blend(palette, (value - low) / (high - low));
          context.fillStyle = `rgb(${rgb})`;
          context.fillRect(x, y, width > 9 ? width - 1 : width, height > 9 ? height - 1 : height);
          const word = data.texts?.length ? data.texts[i][j] : cell(value);
          if (height < 14 || !word) continue;
          const fits = Math.floor((width - 4) / 6.2);
          if (data.texts?.length ? fits < 4 : word.length > fits) continue;
          context.fillStyle = ink(rgb);
          context.textAlign = "center";
          context.fillText(short(word, fits), x + width / 2, y + height / 2);
        }
      }
      labels(context, here, upright);
      for (const [place, name] of [[pinned, "--pinned"], [at, "--text"]]) {
        if (!place) continue;
        context.strokeStyle = colour(name);
        context.lineWidth = 1.5;
        if (name === "--pinned")
          context.strokeRect(left - 1, top + place[0] * height - 1, columns * width + 1, height + 1);
        context.lineWidth = 2;
        context.strokeRect(left + place[1] * width, top + place[0] * height, width - 1, height - 1);
      }
    }

    const cell = (value) =>
      data.share ? (value >= 0.005 ? String(Math.round(100 * value)) : "") : number(value);

    function labels(context, here, upright) {
      const { left, top, width, height } = size;
      const step = Math.ceil(13 / height);
      data.rows.forEach((label, i) => {
        const chosen = here && here[0] === i;
        if (i % step && !chosen) return;
        context.font = `${chosen ? "bold " : ""}12px system-ui, sans-serif`;
        context.fillStyle = colour(chosen ? "--text" : "--dim");
        context.textAlign = "right";
        context.fillText(short(label, 18), left - 6, top + (i + 0.5) * height);
      });
      const apart = Math.ceil(15 / width);
      data.columns.forEach((label, j) => {
        const chosen = here && here[1] === j;
        if (j % apart && !chosen) return;
        context.save();
        context.font = `${chosen ? "bold " : ""}12px system-ui, sans-serif`;
        context.fillStyle = colour(chosen ? "--text" : "--dim");
        context.translate(left + (j + 0.5) * width, top - 6);
        if (upright) context.rotate(-Math.PI / 2);
        context.textAlign = upright ? "left" : "center";
        context.fillText(short(label, 18), 0, upright ? 0 : -2);
        context.restore();
      });
    }

    function under(event) {
      const { left, top, width, height } = size;
      const [i, j] = [Math.floor((event.offsetY - top) / height),
        Math.floor((event.offsetX - left) / width)];
      return i >= 0 && i < rows && j >= 0 && j < columns ? [i, j] : null;
    }

    function point(place) {
      at = place;
      if (at) line.say(text(at));
      else line.back();
      redraw();
    }

    function pin(place) {
      const same = pinned && place && pinned[0] === place[0] && pinned[1] === place[1];
      pinned = same ? null : place;
      line.pin(pinned ? `${text(pinned)} (pinned)` : data.rest);
      redraw();
    }

    canvas.addEventListener("pointermove", (event) => point(under(event)));
    canvas.addEventListener("pointerleave", () => point(null));
    canvas.addEventListener("click", (event) => {
      const place = under(event);
      if (place) pin(place);
    });
    canvas.addEventListener("keydown", (event) => {
      const move = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
      if (move[event.key]) {
        const [i, j] = at ?? pinned ?? [rows - 1, -1];
        const [di, dj] = move[event.key];
        point([Math.min(Math.max(i + di, 0), rows - 1), Math.min(Math.max(j + dj, 0), columns - 1)]);
      } else if ((event.key === "Enter" || event.key === " ") && at) pin(at);
      else if (event.key === "Escape") pin(null);
      else return;
      event.preventDefault();
    });
    canvas.addEventListener("blur", () => point(null));
    new ResizeObserver(redraw).observe(box);
    redraws.push(redraw);
    redraw();
  }

  function legend(low, high, data) {
    const canvas = make("canvas", { width: "120", height: "8", "aria-hidden": "true" });
    const digits = data.share ? 0 : data.digits;
    const name = (value) => (data.share ? percent(value) : value.toFixed(digits));
    const redraw = () => {
      const context = canvas.getContext("2d");
      const palette = data.diverging ? PURPLE_ORANGE[dark.matches ? "dark" : "light"] : VIRIDIS;
      for (let i = 0; i < 120; i += 1) {
        context.fillStyle = `rgb(${blend(palette, i / 119)})`;
        context.fillRect(i, 0, 1, 8);
      }
    };
    redraws.push(redraw);
    redraw();
    return make("div", { class: "legend" }, name(low), canvas, name(high));
  }

  function drawGrid(section, data) {
    data.values = new Float32Array(bytes(data.values));
    data.rest = "Point at a cell, or press an arrow key; a click pins it.";
    const line = readout(section, data.rest);
    const box = section.insertBefore(make("div"), section.lastChild);
    heatmap(box, data, line, (i, j) => `${data.rows[i]}, ${data.columns[j]}`);
  }

  // --- heads: thumbnails, arcs over the words, one map ------------------------------------------

  function drawMaps(section, data) {
    const all = new Uint16Array(bytes(data.values));
    const [down, across, rows, columns] = data.shape;
    const value = (head, i, j) => {
      const found = all[(head * rows + i) * columns + j];
      return found === 65535 ? NaN : found / 65534;
    };
    const words = data.tokens;
    const from = data.first; // the position of the first row
    const title = make("h3");
    const chosen = make("div", { class: "chosen" }, title);
    const line = readout(chosen, "");
    const arcs = make("div", { class: "scroll arcs" });
    const map = make("div");
    chosen.append(arcs, map);
    let head = data.selected;
    let pinned = rows - 1;

    const buttons = [];
    const sheet = make("div", {
      class: "sheet", role: "group", "aria-label": "heads",
      style: `grid-template-columns: auto repeat(${across}, auto)`,
    });
    for (let i = 0; i < down; i += 1) {
      sheet.append(make("span", { class: "label" }, data.rows[i]));
      for (let j = 0; j < across; j += 1) {
        const k = i * across + j;
        const button = make("button", {
          type: "button", "aria-label": `head ${data.names[k]}`, title: data.names[k],
          "aria-pressed": "false",
        }, thumbnail(k), make("span", {}, data.names[k]));
        button.addEventListener("click", () => choose(k));
        buttons.push(button);
        sheet.append(button);
      }
    }
    const focus = roving(buttons, across, (k) => choose(k));
    const chips = make("p", { class: "chips" }, ...data.marked.map((k) => {
      const chip = make("button", { type: "button", "data-head": k }, data.names[k]);
      chip.addEventListener("click", () => choose(k));
      return chip;
    }));
    const side = make("div", { class: "side" });
    if (data.marked.length) side.append(make("p", { class: "dim" }, data.marked_by), chips);
    if (buttons.length > 1) side.append(sheet);
    section.append(make("div", { class: "heads" }, side, chosen));

    function thumbnail(k) {
      const canvas = make("canvas", { width: "24", height: "24", "aria-hidden": "true" });
      const context = canvas.getContext("2d");
      for (let y = 0; y < 24; y += 1) {
        for (let x = 0; x < 24; x += 1) {
          const [i, j] = [Math.floor((y * rows) / 24), Math.floor((x * columns) / 24)];
          let most = NaN;
          // Each dot is the greatest of what it stands for.
          for (let a = i; a < Math.max(i + 1, ((y + 1) * rows) / 24); a += 1)
            for (let b = j; b < Math.max(j + 1, ((x + 1) * columns) / 24); b += 1) {
              const found = value(k, a, b);
              if (!(found <= most)) most = Number.isFinite(found) ? found : most;
            }
          if (!Number.isFinite(most)) continue;
          context.fillStyle = `rgb(${blend(VIRIDIS, most)})`;
          context.fillRect(x, y, 1, 1);
        }
      }
      return canvas;
    }

    const looks = (i) => {
      const shares = words.map((_, j) => [value(head, i, j), j]).filter(([v]) => v >= 0.005);
      shares.sort((a, b) => b[0] - a[0]);
      const told = shares.slice(0, 5).map(([v, j]) => `“${words[j]}” ${percent(v)}`);
      return `${data.names[head]}: “${words[from + i]}” looks at ${told.join(", ")}`;
    };

    function choose(k) {
      head = k;
      buttons.forEach((button, i) => button.setAttribute("aria-pressed", String(i === k)));
      chips.querySelectorAll("button").forEach((chip) =>
        chip.setAttribute("aria-pressed", String(Number(chip.dataset.head) === k)));
      if (buttons.length) focus(k);
      title.textContent = `head ${data.names[k]}`;
      drawArcs();
      const values = new Float32Array(rows * columns);
      for (let i = 0; i < rows; i += 1)
        for (let j = 0; j < columns; j += 1) values[i * columns + j] = value(k, i, j);
      map.replaceChildren();
      redraws.length = kept;
      heatmap(map, {
        title: `head ${data.names[k]}`, values, rows: words.slice(from), columns: words,
        share: true, digits: 0, limit: 1, rest: looks(pinned),
      }, line, (i, j) => `“${words[from + i]}” looks at “${words[j]}”`);
      line.pin(looks(pinned));
    }

    function drawArcs() {
      const focused = arcs.contains(document.activeElement);
      const measure = document.createElement("canvas").getContext("2d");
      measure.font = "16px system-ui, sans-serif";
      const places = [];
      let x = 14;
      for (const word of words) {
        const width = Math.max(34, measure.measureText(word).width);
        places.push(x + width / 2);
        x += width + 12;
      }
      const height = Math.min(190, 40 + x / 5);
      const base = height + 6;
      const svg = draw("svg", { width: x + 4, height: base + 44, role: "group",
        "aria-label": "words, and where the chosen one looks" });
      const lines = draw("g", { fill: "none", class: "arc" });
      const marks = draw("g");
      svg.append(lines, marks);
      const elements = [];
      words.forEach((word, j) => {
        const row = j - from;
        const text = draw("text", {
          x: places[j], y: base + 18, "text-anchor": "middle",
          class: row < 0 ? "word dim" : "word",
        }, word);
        svg.append(text);
        if (row < 0) return;
        text.setAttribute("role", "button");
        text.setAttribute("aria-label", `where “${word}” looks`);
        text.addEventListener("pointerenter", () => show(row));
        text.addEventListener("pointerleave", () => show(pinned));
        text.addEventListener("focus", () => show(row));
        text.addEventListener("click", () => pin(row));
        elements.push(text);
      });
      const focus = roving(elements, 1, pin);
      focus(pinned);
      arcs.replaceChildren(svg);
      show(pinned);
      if (focused) elements[pinned].focus();
      arcs.scrollLeft = Math.max(0, places[from + pinned] + 40 - arcs.clientWidth);

      function pin(row) {
        pinned = row;
        show(row);
        line.pin(looks(row));
      }

      function show(row) {
        lines.replaceChildren();
        marks.replaceChildren();
        const start = places[from + row];
        elements.forEach((element, i) => element.classList.toggle("looking", i === row));
        words.forEach((word, j) => {
          const share = value(head, row, j);
          if (!(share >= 0.005)) return;
          const end = places[j];
          const rise = end === start ? 26 : Math.min(height - 16, 24 + Math.abs(start - end) / 3);
          const path = end === start
            ? `M${start - 9} ${base} C${start - 22} ${base - rise} ${start + 22} ${base - rise} ${start + 9} ${base}`
            : `M${start} ${base} C${start} ${base - rise * 1.25} ${end} ${base - rise * 1.25} ${end} ${base}`;
          lines.append(draw("path", { d: path, "stroke-width": 1 + 7 * share,
            "stroke-opacity": 0.35 + 0.65 * share }));
          if (share >= 0.01 || words.length < 12)
            marks.append(draw("text", { x: end, y: base + 36, "text-anchor": "middle",
              class: share >= 0.1 ? "share strong" : "share" }, percent(share)));
        });
        line.say(looks(row));
      }
    }

    const kept = redraws.length;
    choose(head);
  }

  // --- running text -----------------------------------------------------------------------------

  function watchPassage(section) {
    const spans = [...section.querySelectorAll(".passage span[title]")];
    if (!spans.length) return;
    const line = readout(section, "Point at a token, or go through them with the arrow keys.");
    const tips = spans.map((span) => span.title);
    const pin = (i) => {
      spans.forEach((span, k) => span.classList.toggle("pinned", k === i));
      line.pin(tips[i]);
    };
    spans.forEach((span, i) => {
      span.removeAttribute("title");
      span.setAttribute("role", "button");
      span.addEventListener("pointerenter", () => line.say(tips[i]));
      span.addEventListener("pointerleave", () => line.back());
      span.addEventListener("focus", () => line.say(tips[i]));
      span.addEventListener("click", () => pin(i));
    });
    roving(spans, 1, pin);
  }

  // --- an answer, and what each of its tokens looked at -----------------------------------------

  function drawReading(section, data) {
    const line = readout(section, "");
    const weights = new Float32Array(bytes(data.weights));
    const strongest = weights.reduce((most, weight) => Math.max(most, weight), 1e-9);
    const words = data.words.map((word) => {
      const share = word.column === null ? null : make("small", {}, "");
      const element = make("span", { class: `piece ${word.kind}` }, make("span", {}, word.text), share);
      return { ...word, element, share };
    });
    const rows = data.answer.map((token) => {
      const element = make("span", { class: "piece token", role: "button",
        "aria-label": token.tip }, token.text);
      element.style.setProperty("--p", token.probability);
      return element;
    });
    section.insertBefore(make("div", { class: "reading" },
      make("p", { class: "given" }, ...words.map((word) => word.element)),
      make("p", { class: "answer" }, ...rows)), section.lastChild);
    const count = data.columns;
    let pinned = data.selected;
    const show = (i) => {
      rows.forEach((row, k) => row.classList.toggle("looking", k === i));
      for (const word of words) {
        if (word.column === null) continue;
        const share = weights[i * count + word.column];
        word.element.style.setProperty("--share", Math.min(1, share / strongest));
        word.element.classList.toggle("seen", share >= 0.02 * strongest);
        word.share.textContent = word.last && share >= 0.02 * strongest ? percent(share) : "";
      }
      line.say(data.answer[i].tip);
    };
    const pin = (i) => {
      pinned = i;
      rows.forEach((row, k) => row.classList.toggle("pinned", k === i));
      show(i);
    };
    rows.forEach((row, i) => {
      row.addEventListener("pointerenter", () => show(i));
      row.addEventListener("pointerleave", () => show(pinned));
      row.addEventListener("focus", () => show(i));
      row.addEventListener("click", () => pin(i));
    });
    roving(rows, 1, pin)(pinned);
    pin(pinned);
  }

  // --- a circuit --------------------------------------------------------------------------------

  function drawNetwork(section, data) {
    const line = readout(section, data.rest);
    const [unit, level] = [58, 62];
    const [width, height] = [data.width * unit + 140, data.height * level + 30];
    const place = (node) => [120 + node.x * unit, height - 34 - node.y * level];
    const svg = draw("svg", { width, height, role: "group", "aria-label": data.title });
    for (const row of data.levels)
      svg.append(draw("text", { x: 4, y: height - 30 - row.y * level, class: "level" }, row.label));
    for (const column of data.columns)
      svg.append(draw("text", { x: 120 + column.x * unit, y: height - 30, class: "level",
        "text-anchor": "middle" }, column.label));
    const strongest = Math.max(1e-9, ...data.edges.map((edge) => Math.abs(edge.weight)));
    const lines = data.edges.map((edge) => {
      const [[x1, y1], [x2, y2]] = [place(data.nodes[edge.from]), place(data.nodes[edge.to])];
      const bend = Math.max(18, (y1 - y2) / 2);
      // Around what stands between two parts of one column.
      const [low, high] = [data.nodes[edge.from], data.nodes[edge.to]];
      const between = data.nodes.some((node) =>
        node.x === low.x && node.x === high.x && node.y > low.y && node.y < high.y);
      const aside = between ? -42 : 0;
      const path = `M${x1} ${y1} C${x1 + aside} ${y1 - bend} ${x2 + aside} ${y2 + bend} ${x2} ${y2}`;
      const strength = Math.sqrt(Math.abs(edge.weight) / strongest);
      const visible = draw("path", { d: path, class: edge.weight < 0 ? "edge against" : "edge",
        "stroke-width": 1 + 7 * strength, "stroke-opacity": 0.3 + 0.6 * strength });
      const wide = draw("path", { d: path, class: "reach" });
      svg.append(visible, wide);
      wide.addEventListener("pointerenter", () => line.say(edge.tip));
      wide.addEventListener("pointerleave", () => line.back());
      return visible;
    });
    let pinned = null;
    const shapes = data.nodes.map((node, i) => {
      const [x, y] = place(node);
      const half = Math.max(15, 4.2 * node.label.length + 6);
      const shape = node.kind === "head"
        ? draw("circle", { cx: x, cy: y, r: 17 })
        : draw("rect", { x: x - half, y: y - 14, width: 2 * half, height: 28,
          rx: node.kind === "feed-forward" ? 5 : 14 });
      const group = draw("g", { class: `node ${node.kind}`, role: "button",
        "aria-label": node.tip }, shape,
        draw("text", { x, y: y + 4, "text-anchor": "middle" }, node.label));
      group.addEventListener("pointerenter", () => show(i));
      group.addEventListener("pointerleave", () => show(pinned));
      group.addEventListener("focus", () => show(i));
      group.addEventListener("blur", () => show(pinned));
      group.addEventListener("click", () => pin(i));
      svg.append(group);
      return group;
    });
    function show(i) {
      const near = new Set([i]);
      data.edges.forEach((edge, k) => {
        const mine = i === null || edge.from === i || edge.to === i;
        if (mine) near.add(edge.from).add(edge.to);
        lines[k].classList.toggle("faint", !mine);
      });
      shapes.forEach((shape, k) => {
        shape.classList.toggle("faint", i !== null && !near.has(k));
        shape.classList.toggle("looking", k === i);
      });
      if (i === null) line.back();
      else line.say(told(i));
    }
    function told(i) {
      const reads = data.edges.filter((edge) => edge.to === i);
      reads.sort((a, b) => Math.abs(b.weight) - Math.abs(a.weight));
      const parts = reads.slice(0, 6).map((edge) =>
        `${data.nodes[edge.from].name} ${edge.weight > 0 ? "+" : ""}${edge.weight.toFixed(2)}`);
      return data.nodes[i].tip + (parts.length ? `; reads ${parts.join(", ")}` : "");
    }
    function pin(i) {
      pinned = pinned === i ? null : i;
      line.pin(pinned === null ? data.rest : told(pinned));
      show(pinned);
    }
    roving(shapes, 1, pin);
    const scroll = make("div", { class: "scroll network" }, svg);
    section.insertBefore(scroll, section.lastChild);
    // The logits, last of the nodes, are in sight first.
    const end = data.nodes.length ? place(data.nodes[data.nodes.length - 1])[0] : 0;
    scroll.scrollLeft = end - 0.6 * scroll.clientWidth;
  }

  // --- tables -----------------------------------------------------------------------------------

  function shortenTable(table) {
    const rows = [...table.rows].slice(1 + ROWS);
    if (rows.length < 2) return;
    rows.forEach((row) => (row.hidden = true));
    const button = make("button", { type: "button", class: "more" },
      `show all ${(rows.length + ROWS).toLocaleString("en")} rows`);
    button.addEventListener("click", () => {
      rows.forEach((row) => (row.hidden = false));
      button.remove();
    });
    table.closest(".scroll").after(button);
  }

  const drawn = { grid: drawGrid, maps: drawMaps, reading: drawReading, network: drawNetwork };
  for (const section of document.querySelectorAll("section[data-kind]")) {
    const source = section.querySelector("script[type='application/json']");
    if (section.dataset.kind === "passage") watchPassage(section);
    if (!source) continue;
    const data = JSON.parse(source.textContent);
    drawn[section.dataset.kind](section, data);
    // Notes stay below what they are about.
    section.append(...section.querySelectorAll(":scope > p.note"));
  }
  document.querySelectorAll("section table").forEach(shortenTable);
  // A region that scrolls must be reached by the keyboard too.
  for (const box of document.querySelectorAll(".scroll"))
    if (box.scrollWidth > box.clientWidth && !box.querySelector("[tabindex='0']"))
      box.setAttribute("tabindex", "0");
})();
