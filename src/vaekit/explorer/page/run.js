"use strict";

// ---- one trained model -----------------------------------------------------------------------------------------------

const MOST_SLIDERS = 24;  // that stand open; those of latents that tell less are folded away

class Run {
  constructor(index, facts, page) {
    Object.assign(this, { index, facts, page, code: null, point: null, label: null, cell: null, seed: 0, ends: { a: null, b: null } });
    this.show = latest(async (action, fields) => this.take(await this.post(action, fields), fields));
    this.encode = latest(async (blob, label, drawn) => this.takeEncoded(blob, label, drawn));
    this.offer = latest(async () => this.takeChoices(await this.post("choices", { code: this.code, cell: this.cell })));
    this.travel = latest(async () => this.takeFrames(await this.post("between", this.ends)));
    if (facts.conditional) this.label = facts.classes[0];
    if (facts.latents) this.code = this.middle();
    this.build();
  }

  post(action, fields) {
    return ask(`/api/runs/${this.index}/${action}`, JSON.stringify({ ...fields, label: this.label }), "application/json");
  }

  // -- what it consists of

  build() {
    const { facts } = this;
    this.image = make("img", { alt: `${facts.name}: the decoded picture`, draggable: false });
    this.picture = make("div", { className: "picture" }, this.image);
    this.pair = make("div", { className: "pair", hidden: true });
    const used = facts.latents ? facts.latents.filter((latent) => latent.active).length : 0;
    const size = facts.latents
      ? `${facts.latents.length} latent${facts.latents.length > 1 ? "s" : ""}, ${used} in use`
      : `${facts.grid.join("×")} codes out of ${facts.n_codes}`;
    this.article = make("article", { className: "run", "aria-label": facts.name },
      make("h2", { textContent: facts.name }),
      make("p", { className: "soft", textContent: `${facts.model}, ${facts.architecture}, ${facts.parameters.toLocaleString("en")} parameters, ${size}` }),
      make("div", { className: "parts" },
        this.buildMap(),
        make("section", { "aria-label": "Picture" }, make("h3", { textContent: "Decoded" }), this.picture, this.pair, this.buildActions()),
        facts.latents ? this.buildSliders() : this.buildCodes()),
      this.buildBetween(),
      ...this.buildDoctor());
  }

  buildActions() {
    const { facts } = this;
    const row = make("div", { className: "row" });
    if (facts.classes) {
      const chooser = make("select", { "aria-label": `${facts.name}: class` });
      if (!facts.conditional) chooser.append(make("option", { value: "", textContent: "any class" }));
      facts.classes.forEach((name) => chooser.append(make("option", { value: name, textContent: name, dir: "auto" })));
      chooser.addEventListener("change", () => {
        this.label = chooser.value || null;
        if (facts.conditional) this.again();
        else if (this.cell !== null) this.offer();
      });
      this.chooser = chooser;
      row.append(make("label", {}, "Class ", chooser));
    }
    this.sampler = make("button", { type: "button", textContent: "New sample", disabled: Boolean(facts.no_samples), title: facts.no_samples || "" });
    this.sampler.addEventListener("click", () => this.show("sample", { temperature: this.temperature(), seed: this.seed++ }));
    row.append(this.sampler);
    this.heat = make("input", { type: "range", min: "0.1", max: "1.5", step: "0.05", value: "1", disabled: Boolean(facts.no_samples) });
    const degrees = make("output", { className: "number", textContent: "1.00" });
    this.heat.addEventListener("input", () => (degrees.textContent = this.temperature().toFixed(2)));
    const box = make("div", {}, row, make("div", { className: "row" }, make("label", {}, "Temperature ", this.heat), degrees));
    if (facts.no_samples) box.append(make("p", { className: "soft", textContent: facts.no_samples }));
    return box;
  }

  temperature() {
    return Number(this.heat.value);
  }

  buildMap() {
    const { facts } = this;
    this.canvas = make("canvas", {
      tabIndex: 0, role: "application",
      ariaLabel: `${facts.name}: map of the latent space. Click or use the arrow keys to decode a place, Enter to take the nearest image.`,
    });
    this.tip = make("div", { className: "tip", hidden: true });
    this.legend = make("div", { className: "legend", role: "group", ariaLabel: "Classes on the map" });
    const { page } = this;
    if (page.labels) {
      page.classes.forEach((name, label) => {
        const { shape } = symbol(label, page);
        const icon = document.createElementNS("http://www.w3.org/2000/svg", "svg");
        icon.setAttribute("viewBox", "0 0 16 16");
        icon.setAttribute("aria-hidden", "true");
        const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
        path.setAttribute("d", shape);
        const paint = () => path.setAttribute("fill", symbol(label, page).colour);
        paint();
        dark.addEventListener("change", paint);
        icon.append(path);
        const button = make("button", { type: "button", ariaPressed: "false", title: name }, icon, named(name));
        button.addEventListener("click", () => {
          this.only = this.only === label ? null : label;
          [...this.legend.children].forEach((other, i) => (other.ariaPressed = String(this.only === i)));
          this.draw();
        });
        this.legend.append(button);
      });
    }
    this.only = null;
    this.findBounds();
    const canvas = this.canvas;
    let pressed = false;
    const decodeAt = (event) => {
      canvas.focus({ preventScroll: true });
      this.show("decode", { point: this.place(event) });
    };
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      pressed = true;
      if (event.pointerType === "mouse") canvas.setPointerCapture(event.pointerId);
      decodeAt(event);
    });
    canvas.addEventListener("pointermove", (event) => (pressed ? decodeAt(event) : this.hover(event)));
    for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => (pressed = false));
    canvas.addEventListener("pointerleave", () => (this.tip.hidden = true));
    canvas.addEventListener("dblclick", (event) => this.page.takeHeldOut(this.nearest(this.place(event)).index));
    canvas.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
      if (step && this.point) {
        event.preventDefault();
        const part = (this.bounds.high[0] - this.bounds.low[0]) / (event.shiftKey ? 200 : 40);
        this.point = this.point.map((value, axis) => value + part * step[axis]);
        this.show("decode", { point: this.point });
      } else if (event.key === "Enter" && this.point) {
        this.page.takeHeldOut(this.nearest(this.point).index);
      }
    });
    new ResizeObserver(() => this.draw()).observe(canvas);
    dark.addEventListener("change", () => this.draw());
    return make("section", { "aria-label": "Map" }, make("h3", { textContent: "Map of the latent space" }),
      make("div", { className: "map" }, canvas, this.tip), this.legend,
      make("p", { className: "soft", textContent: "Click or drag to decode any place; a double click takes the nearest image." }),
      page.labels && page.classes.length > SHAPES.length * page.colours.length
        ? make("p", { className: "soft", textContent: `${page.classes.length} classes are more than colours and marks: some look alike.` }) : "");
  }

  findBounds() {
    const low = [Infinity, Infinity];
    const high = [-Infinity, -Infinity];
    for (const point of this.facts.points) {
      for (const axis of [0, 1]) {
        low[axis] = Math.min(low[axis], point[axis]);
        high[axis] = Math.max(high[axis], point[axis]);
      }
    }
    // One scale for both axes: distances on the map are distances in the latent space.
    const half = 0.54 * Math.max(high[0] - low[0], high[1] - low[1], 1e-6);
    const middle = [0, 1].map((axis) => (low[axis] + high[axis]) / 2);
    this.bounds = { low: middle.map((value) => value - half), high: middle.map((value) => value + half) };
  }

  place(event) {
    const box = this.canvas.getBoundingClientRect();
    const { low, high } = this.bounds;
    const across = (event.clientX - box.left) / box.width;
    const down = (event.clientY - box.top) / box.height;
    return [low[0] + across * (high[0] - low[0]), high[1] - down * (high[1] - low[1])];
  }

  pixel([x, y], size) {
    const { low, high } = this.bounds;
    return [((x - low[0]) / (high[0] - low[0])) * size, ((high[1] - y) / (high[1] - low[1])) * size];
  }

  nearest([x, y]) {
    let found = { index: 0, distance: Infinity };
    this.facts.points.forEach(([px, py], index) => {
      if (this.only !== null && this.page.labels[index] !== this.only) return;
      const distance = Math.hypot(px - x, py - y);
      if (distance < found.distance) found = { index, distance };
    });
    return found;
  }

  hover(event) {
    const box = this.canvas.getBoundingClientRect();
    const { index } = this.nearest(this.place(event));
    const [x, y] = this.pixel(this.facts.points[index], box.width);
    const far = Math.hypot(event.clientX - box.left - x, event.clientY - box.top - y) > 12;
    this.tip.hidden = far;
    if (far) return;
    if (this.tip.dataset.index !== String(index)) {
      this.tip.dataset.index = index;
      const name = this.page.labels ? named(this.page.classes[this.page.labels[index]]) : `image ${index}`;
      this.tip.replaceChildren(make("img", { src: `/api/images/${index}.png`, alt: "" }), name);
    }
    this.tip.style.left = `${x < box.width / 2 ? x + 14 : x - 90}px`;
    this.tip.style.top = `${Math.min(Math.max(y - 40, 0), box.height - 100)}px`;
  }

  draw() {
    const { canvas, facts, page } = this;
    const size = canvas.clientWidth;
    if (!size) return;
    const ratio = window.devicePixelRatio || 1;
    canvas.width = canvas.height = Math.round(size * ratio);
    const pen = canvas.getContext("2d");
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, size, size);
    pen.strokeStyle = ink("--grid");
    const [zeroX, zeroY] = this.pixel([0, 0], size);
    pen.beginPath();
    pen.moveTo(zeroX, 0); pen.lineTo(zeroX, size); pen.moveTo(0, zeroY); pen.lineTo(size, zeroY);
    pen.stroke();
    const paths = SHAPES.map((shape) => new Path2D(shape));
    const wide = Math.max(4, Math.min(8, size / 70)) * (facts.points.length > 600 ? 0.85 : 1);
    facts.points.forEach((point, index) => {
      const label = page.labels ? page.labels[index] : 0;
      const { colour, shape } = symbol(label, page);
      const [x, y] = this.pixel(point, size);
      pen.globalAlpha = this.only === null || this.only === label ? 0.72 : 0.06;
      pen.fillStyle = colour;
      pen.save();
      pen.translate(x - wide / 2, y - wide / 2);
      pen.scale(wide / 16, wide / 16);
      pen.fill(paths[SHAPES.indexOf(shape)]);
      pen.restore();
    });
    pen.globalAlpha = 1;
    pen.font = "11px system-ui, sans-serif";
    pen.lineWidth = 4;
    pen.lineJoin = "round";
    const write = (text, x, y) => { // over the points, with an edge that sets it off
      pen.strokeStyle = ink("--page");
      pen.strokeText(text, x, y);
      pen.fillStyle = ink("--soft");
      pen.fillText(text, x, y);
    };
    write(`${facts.axes[0]} →`, 6, size - 7);
    if (facts.axes[1]) {
      pen.save();
      pen.translate(14, 6);
      pen.rotate(Math.PI / 2);
      write(`← ${facts.axes[1]}`, 0, 3);
      pen.restore();
    }
    if (this.point) {
      const [x, y] = this.pixel(this.point, size).map((value) => Math.min(Math.max(value, 2), size - 2));
      for (const [width, colour] of [[5, "#fff"], [2, "#000"]]) {
        pen.lineWidth = width;
        pen.strokeStyle = colour;
        pen.beginPath();
        pen.arc(x, y, 7, 0, 2 * Math.PI);
        pen.moveTo(x - 12, y); pen.lineTo(x - 3, y); pen.moveTo(x + 3, y); pen.lineTo(x + 12, y);
        pen.moveTo(x, y - 12); pen.lineTo(x, y - 3); pen.moveTo(x, y + 3); pen.lineTo(x, y + 12);
        pen.stroke();
      }
      pen.lineWidth = 1;
    }
  }

  // -- sliders of a Gaussian latent

  buildSliders() {
    const { latents } = this.facts;
    const most = Math.max(...latents.map((latent) => latent.kl), 1e-9);
    this.sliders = new Map();
    const row = (latent) => {
      const id = `slider-${this.index}-${latent.index}`;
      const input = make("input", { type: "range", id, min: latent.low, max: latent.high, step: (latent.high - latent.low) / 200 });
      const value = make("output", {});
      value.setAttribute("for", id);
      const kl = make("span", { className: "kl", textContent: `${latent.kl.toFixed(2)} nats` });
      kl.style.setProperty("--share", Math.max(0, latent.kl / most));
      input.addEventListener("input", () => {
        this.code[latent.index] = Number(input.value);
        value.textContent = Number(input.value).toFixed(2);
        this.show("decode", { code: this.code });
      });
      this.sliders.set(latent.index, { input, value });
      return make("div", { className: "slider" }, make("label", { htmlFor: id, textContent: `z${latent.index + 1}` }), input, value, kl);
    };
    const used = latents.filter((latent) => latent.active).map(row);
    const unused = latents.filter((latent) => !latent.active).map(row);
    const sliders = make("div", { className: "sliders" }, ...used.slice(0, MOST_SLIDERS));
    const further = used.slice(MOST_SLIDERS);
    const folded = [[further, "more that carry less"], [unused, "that carry nothing of the image"]];
    for (const [rows, words] of folded) {
      if (!rows.length) continue;
      const summary = make("summary", { textContent: `${rows.length} latent${rows.length > 1 ? "s" : ""} ${words}` });
      sliders.append(make("details", {}, summary, ...rows));
    }
    const reset = make("button", { type: "button", textContent: "To the middle" });
    reset.addEventListener("click", () => this.show("decode", { code: this.middle() }));
    return make("section", { className: "edit", "aria-label": "Latents" },
      make("h3", { textContent: "Latents, by how much they tell (KL)" }), sliders, make("div", { className: "row" }, reset));
  }

  middle() {
    const code = [];
    for (const { index, low, high } of this.facts.latents) code[index] = (low + high) / 2;
    return code;
  }

  // -- the code grid of a VQ-VAE

  buildCodes() {
    const { grid, architecture, n_codes } = this.facts;
    const [rows, columns] = grid;
    const placed = architecture !== "mlp"; // an mlp's codes have no place in the image
    this.cells = make("div", { className: placed ? "cells" : "cells plain", role: "group", ariaLabel: "Codes" });
    if (Math.max(rows, columns) > 12) this.cells.classList.add("small");
    this.cells.style.gridTemplateColumns = `repeat(${columns}, 1fr)`;
    this.buttons = Array.from({ length: rows * columns }, (_, cell) => {
      const button = make("button", { type: "button", tabIndex: cell ? -1 : 0, ariaPressed: "false" });
      button.addEventListener("click", () => this.choose(cell));
      this.cells.append(button);
      return button;
    });
    this.cells.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[event.key];
      const from = this.buttons.indexOf(document.activeElement);
      const to = from + step;
      if (!step || !this.buttons[to]) return;
      event.preventDefault();
      this.buttons[from].tabIndex = -1;
      this.buttons[to].tabIndex = 0;
      this.buttons[to].focus();
    });
    if (placed) this.picture.append(this.cells);
    const tinted = make("input", { type: "checkbox" });
    tinted.addEventListener("change", () => this.cells.classList.toggle("tinted", tinted.checked));
    const numbers = make("input", { type: "checkbox", checked: true });
    numbers.addEventListener("change", () => this.cells.classList.toggle("small", !numbers.checked));
    this.about = make("p", { className: "soft", textContent: "Choose a cell of the picture to change its code." });
    this.value = make("input", { type: "number", min: 0, max: n_codes - 1, step: 1 });
    this.value.addEventListener("change", () => this.setCode(Number(this.value.value)));
    this.choices = make("div", { className: "choices", role: "group", ariaLabel: "Other codes for this cell" });
    this.onward = make("button", { type: "button", textContent: "Resample from here on", disabled: true, title: this.facts.no_samples || "Choose a cell first" });
    this.onward.addEventListener("click", () =>
      this.show("sample", { code: this.code, start: this.cell, temperature: this.temperature(), seed: this.seed++ }));
    this.undo = make("button", { type: "button", textContent: "Undo", disabled: true });
    this.before = [];
    this.undo.addEventListener("click", () => {
      const code = this.before.pop();
      this.undo.disabled = !this.before.length;
      this.undoing = true;
      this.show("decode", { code });
    });
    this.editor = make("div", { hidden: true }, make("div", { className: "row" }, make("label", {}, "Code ", this.value), this.onward), this.choices);
    return make("section", { className: "edit", "aria-label": "Codes" }, make("h3", { textContent: "Codes" }), placed ? "" : this.cells,
      make("div", { className: "row" }, make("label", {}, numbers, " numbers"), make("label", {}, tinted, " like codes in like colours"), this.undo),
      this.about, this.editor);
  }

  choose(cell) {
    if (!this.code) return;
    this.cell = cell;
    this.buttons.forEach((button, i) => (button.ariaPressed = String(i === cell)));
    const [row, column] = [Math.floor(cell / this.facts.grid[1]), cell % this.facts.grid[1]];
    this.about.textContent = this.facts.no_samples
      ? `Row ${row + 1}, column ${column + 1}. Below, the present code and those nearest to it in the codebook.`
      : `Row ${row + 1}, column ${column + 1}. Below, the present code and the likeliest ones, given the cells before it.`;
    this.editor.hidden = false;
    this.onward.disabled = Boolean(this.facts.no_samples);
    this.onward.title = this.facts.no_samples || "Draw this cell and all after it anew";
    this.value.value = this.code.flat()[cell];
    this.offer();
  }

  setCode(value) {
    const columns = this.facts.grid[1];
    const code = this.code.map((row) => [...row]);
    code[Math.floor(this.cell / columns)][this.cell % columns] = value;
    this.show("decode", { code });
  }

  takeChoices({ choices }) {
    this.choices.replaceChildren(...choices.map(({ value, probability, image }, i) => {
      const share = probability === null ? "" : probability < 0.001 ? "<0.1%" : `${(100 * probability).toFixed(probability < 0.1 ? 1 : 0)}%`;
      const button = make("button", { type: "button", ariaPressed: String(i === 0), ariaLabel: `code ${value} ${share}` },
        make("img", { src: image, alt: "" }), make("b", { textContent: value }), ` ${share}`);
      button.addEventListener("click", () => this.setCode(value));
      return button;
    }));
  }

  // -- between two images

  buildDoctor() {
    const { doctor } = this.facts;
    if (!doctor.length) return [];
    const wrong = doctor.filter((check) => check.wrong).length;
    const list = make("ul", {}, ...doctor.map((check) => {
      const item = make("li", {}, make(check.wrong ? "strong" : "span", { textContent: `${check.name}: ${check.words}. ` }), `${check.evidence}.`);
      if (check.cure) item.append(make("br"), make("code", { textContent: check.cure }));
      return item;
    }));
    const title = wrong ? `The doctor: ${wrong} of ${doctor.length} checks found something` : `The doctor: ${doctor.length} checks, nothing wrong`;
    return [make("details", { className: "doctor" }, make("summary", { textContent: title }), list)];
  }

  buildBetween() {
    this.frames = make("div", { className: "frames" });
    this.heading = make("h3", {});
    this.between = make("section", { className: "between", "aria-label": "Between A and B", hidden: true }, this.heading, this.frames);
    return this.between;
  }

  keep(end) {
    this.ends[end] = structuredClone(this.code);
    this.between.hidden = false;
    this.heading.textContent = `${end.toUpperCase()} is kept`;
    if (this.ends.a && this.ends.b) this.travel();
    else this.frames.replaceChildren(make("img", { src: this.image.src, alt: `${end.toUpperCase()} is kept` }));
  }

  takeFrames({ frames }) {
    this.heading.textContent = this.facts.conditional ? `From A to B, both as \u2068${this.label}\u2069` : "From A to B";
    this.frames.replaceChildren(...frames.map(({ code, image }, i) => {
      const name = i === 0 ? "A" : i === frames.length - 1 ? "B" : `${Math.round((100 * i) / (frames.length - 1))}%`;
      const button = make("button", { type: "button", title: "Show this one" }, make("img", { src: image, alt: "" }), name);
      button.addEventListener("click", () => this.show("decode", { code }));
      return button;
    }));
  }

  // -- answers

  async takeEncoded(blob, label, drawn) {
    const query = this.facts.conditional && label !== null ? `?label=${encodeURIComponent(label)}` : "";
    const answer = await ask(`/api/runs/${this.index}/encode${query}`, blob, "application/octet-stream");
    if (this.facts.conditional) this.label = this.chooser.value = answer.label;
    this.take(answer, {});
    const inferred = this.facts.conditional ? `, as \u2068${answer.label}\u2069` : "";
    this.pair.hidden = false;
    this.pair.replaceChildren(
      make("figure", {}, make("img", { src: answer.input, alt: "The input" }), "input"),
      make("figure", {}, make("img", { src: answer.image, alt: `Its reconstruction by ${this.facts.name}` }), "reconstruction"),
      make("span", { className: "number", textContent: `squared error ${answer.mse.toFixed(4)}${inferred}` }));
    if (this.index === 0 && !drawn) this.page.showOnPad(answer.input); // of a drawing the hand is ahead
  }

  take({ code, point, image }, asked) {
    this.point = asked.point || point; // of codes the nearest are taken, whose own place would hold the arrow keys back
    this.image.src = image;
    if (this.facts.grid) {
      const changed = this.code && this.code.flat().join() !== code.flat().join();
      if (changed && !this.undoing) this.before.push(this.code);
      this.undoing = false;
      this.code = code;
      this.undo.disabled = !this.before.length;
      code.flat().forEach((value, cell) => {
        const button = this.buttons[cell];
        button.textContent = value;
        button.ariaLabel = `row ${Math.floor(cell / this.facts.grid[1]) + 1}, column ${(cell % this.facts.grid[1]) + 1}: code ${value}`;
        button.style.setProperty("--tint", this.facts.tints[value]);
      });
      if (this.cell !== null) {
        this.value.value = code.flat()[this.cell];
        clearTimeout(this.pause);
        this.pause = setTimeout(() => this.offer(), 200);
      }
    } else if (asked.code !== this.code) {
      // Where the sliders asked, they are where they should be, or further by now.
      this.code = code;
      for (const [index, { input, value }] of this.sliders) {
        input.value = code[index];
        value.textContent = code[index].toFixed(2);
      }
    }
    this.draw();
  }

  again() {
    this.show("decode", { code: this.code });
    if (this.ends.a && this.ends.b) this.travel();
  }
}
