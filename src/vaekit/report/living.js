"use strict";
// Makes the report answer to the hand: sortable tables, and living figures from the data that stands in the page.
// Everything is built as text and canvas, never from HTML, so that names in the data stay names.
(() => {
  const root = document.documentElement;

  function el(tag, attributes = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (value !== false) made.setAttribute(name, value === true ? "" : value);
    }
    made.append(...children);
    return made;
  }

  // A name from the data, in whatever direction its script runs.
  const named = (name) => el("bdi", {}, name);

  // A colour of the style sheet, which has others for dark pages.
  const ink = (name) => getComputedStyle(root).getPropertyValue(name);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");

  const number = (value, digits) => value.toFixed(digits).replace("-", "\u2212");
  const signed = (value, digits) => (value > 0 ? "+" : "") + number(value, digits);

  // ---- tables

  // A click on a heading puts the best first, the next turns that round, the third brings the page's order back.
  function sortable(table) {
    const heads = [...table.tHead.rows[0].cells];
    const bodies = [...table.tBodies].map((body) => ({ body, rows: [...body.rows].filter((row) => row.cells.length > 1) }));
    const value = (row, column) => {
      const cell = row.cells[column];
      if (column === 0) return cell.textContent;
      return cell.dataset.value === undefined ? null : Number(cell.dataset.value);
    };
    heads.forEach((head, column) => {
      const button = el("button", { type: "button", title: "sort" });
      button.append(...head.childNodes);
      head.append(button);
      const first = head.dataset.better === "high" ? "descending" : "ascending";
      const second = first === "ascending" ? "descending" : "ascending";
      button.addEventListener("click", () => {
        const next = { [first]: second, [second]: null }[head.getAttribute("aria-sort")];
        const order = next === undefined ? first : next;
        for (const other of heads) other.removeAttribute("aria-sort");
        if (order) head.setAttribute("aria-sort", order);
        const sign = order === "descending" ? -1 : 1;
        for (const { body, rows } of bodies) {
          const sorted = !order ? rows : [...rows].sort((one, two) => {
            const [a, b] = [value(one, column), value(two, column)];
            if (a === null || b === null) return (a === null) - (b === null); // what has no number stays below
            return sign * (typeof a === "string" ? a.localeCompare(b) : a - b);
          });
          body.append(...sorted);
        }
      });
    });
  }

  for (const table of document.querySelectorAll("table")) sortable(table);
  root.classList.add("js");
  const source = document.getElementById("living-data");
  if (!source) return;
  const data = JSON.parse(source.textContent);

  // ---- images out of sprites

  const read = new Map();

  function image(sprite) {
    if (!read.has(sprite)) {
      const made = new Image();
      made.src = sprite.src;
      read.set(sprite, made.decode().then(() => made));
    }
    return read.get(sprite);
  }

  // Draws when the sprites have been read, unless the canvas was meanwhile given something else to show.
  async function render(canvas, sprites, draw) {
    const turn = (canvas.turn = {});
    const images = await Promise.all(sprites.map(image));
    if (canvas.turn !== turn) return;
    canvas.turn = null; // nothing is awaited any more
    draw(canvas.getContext("2d"), ...images);
  }

  const place = (sprite, index) => [
    (index % sprite.columns) * sprite.width, Math.floor(index / sprite.columns) * sprite.height, sprite.width, sprite.height,
  ];

  function show(canvas, sprite, index) {
    return render(canvas, [sprite], (context, sheet) => {
      [canvas.width, canvas.height] = [sprite.width, sprite.height];
      context.drawImage(sheet, ...place(sprite, index), 0, 0, sprite.width, sprite.height);
    });
  }

  function pixels(sheet, sprite, index) {
    const canvas = el("canvas", { width: sprite.width, height: sprite.height });
    const context = canvas.getContext("2d");
    context.drawImage(sheet, ...place(sprite, index), 0, 0, sprite.width, sprite.height);
    return context.getImageData(0, 0, sprite.width, sprite.height).data;
  }

  // ---- controls

  let groups = 0;

  function choice(title, names, pick) {
    const box = el("fieldset", { class: "choice" }, el("legend", {}, title));
    box.hidden = names.length < 2;
    if (names.length > 12) {
      const select = el("select", { "aria-label": title, autocomplete: "off" }, ...names.map((name) => el("option", { dir: "auto" }, name)));
      select.addEventListener("change", () => pick(select.selectedIndex));
      box.append(select);
      return box;
    }
    const group = `choice${(groups += 1)}`;
    names.forEach((name, index) => {
      const input = el("input", { type: "radio", name: group, checked: index === 0, autocomplete: "off" });
      input.addEventListener("change", () => pick(index));
      box.append(el("label", {}, input, el("span", {}, named(name))));
    });
    return box;
  }

  // Model and seed; `use` is called with the run that they name.
  function runChoice(runs, use) {
    const labels = [...new Set(runs.map((run) => run.label))];
    const seeds = [...new Set(runs.map((run) => run.seed))];
    let [label, seed] = [labels[0], seeds[0]];
    const update = () => use(runs.find((run) => run.label === label && run.seed === seed));
    return el("div", { class: "controls" },
      choice("model", labels, (index) => { label = labels[index]; update(); }),
      choice("seed", seeds.map(String), (index) => { seed = seeds[index]; update(); }));
  }

  // Makes `box` a grid that pointer and arrow keys choose from: pick(column, row, x, y), x and y in [0, 1) from the upper left.
  function choosable(box, columns, rows, pick) {
    let [column, row] = [0, 0];
    const within = (value, count) => Math.max(0, Math.min(count - 1, value));
    const point = (event) => {
      const frame = box.firstElementChild.getBoundingClientRect();
      const x = within(((event.clientX - frame.left) / frame.width) * 1e6, 1e6) / 1e6;
      const y = within(((event.clientY - frame.top) / frame.height) * 1e6, 1e6) / 1e6;
      [column, row] = [Math.floor(x * columns()), Math.floor(y * rows())];
      pick(column, row, x, y);
    };
    box.tabIndex = 0;
    box.addEventListener("pointerdown", point);
    box.addEventListener("pointermove", point);
    box.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
      if (step === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      [column, row] = [within(column + step[0], columns()), within(row + step[1], rows())];
      pick(column, row, (column + 0.5) / columns(), (row + 0.5) / rows());
    });
    return (toColumn, toRow) => {
      [column, row] = [toColumn, toRow];
      pick(column, row, (column + 0.5) / columns(), (row + 0.5) / rows());
    };
  }

  function large(words) {
    const canvas = el("canvas", { role: "img", "aria-label": words });
    const text = el("figcaption", { "aria-live": "polite" });
    return { canvas, text, box: el("figure", { class: "large" }, canvas, text) };
  }

  // Puts a living figure after the still one of a section, which then shows on demand, in print and without scripts.
  function attach(id, ...parts) {
    const section = document.getElementById(id);
    const still = section?.querySelector("figure");
    if (!still) return null;
    section.classList.add("lives");
    still.id = `${id}-still`;
    const button = el("button", { type: "button", class: "button living", "aria-expanded": "false", "aria-controls": still.id },
      "Show the still picture");
    button.addEventListener("click", () => {
      const open = still.classList.toggle("still");
      button.setAttribute("aria-expanded", open);
      button.textContent = open ? "Hide the still picture" : "Show the still picture";
    });
    section.append(el("div", { class: "widget living" }, ...parts), button);
    return section;
  }

  // Says so where an image is shown smaller than it is.
  function reduced({ width, height }) {
    const [high, wide] = data.image;
    return width === wide && height === high ? "" : ` Images are reduced here from ${wide}\u00d7${high} to ${width}\u00d7${height} pixels.`;
  }

  // ---- one run up close

  const NS = "http://www.w3.org/2000/svg";

  function curve(term, epochs, values) {
    const [width, height] = [160, 70];
    // The first, steep fall would flatten all the rest.
    const tail = values.slice(Math.floor(values.length / 5));
    const [low, high] = [Math.min(...tail), Math.max(...tail)];
    const span = high - low || Math.abs(high) || 1;
    const x = (index) => (values.length > 1 ? (index / (values.length - 1)) * width : width / 2);
    const y = (value) => height - 6 - ((value - low) / span) * (height - 12);
    const svg = document.createElementNS(NS, "svg");
    const words = `${term}: ${number(values[0], 2)} after the first epoch, ${number(values.at(-1), 2)} after ${epochs.at(-1)}`;
    for (const [name, value] of Object.entries({ viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": words })) {
      svg.setAttribute(name, value);
    }
    const shapes = [["line", { x1: 0, y1: height, x2: width, y2: height, stroke: "#888888" }]];
    shapes.push(["polyline", {
      points: values.map((value, index) => `${x(index).toFixed(1)},${y(value).toFixed(1)}`).join(" "),
      class: "curve",
    }]);
    shapes.push(["circle", { cx: x(values.length - 1), cy: y(values.at(-1)), r: 3 }]);
    for (const [tag, attributes] of shapes) {
      const shape = document.createElementNS(NS, tag);
      for (const [name, value] of Object.entries(attributes)) shape.setAttribute(name, value);
      svg.append(shape);
    }
    const text = el("figcaption", { class: "soft" },
      `${term}, ${number(values.at(-1), 2)} nats after ${epochs.at(-1)} epoch${epochs.at(-1) === 1 ? "" : "s"}`);
    return el("figure", {}, el("div", { class: "paper" }, svg), text);
  }

  function closer(runs) {
    const gap = 4;
    const columns = 8;
    const section = document.getElementById("closer");
    const numbers = el("dl", { class: "numbers" });
    const curves = el("div", { class: "curves" });
    const canvas = el("canvas");
    const mark = el("div", { class: "mark" });
    const sheet = el("div", { class: "sheet", role: "application" }, canvas, mark);
    const one = large("the chosen sample");
    let run = runs[0];
    const count = () => run.samples.count;
    const goTo = choosable(sheet, () => columns, () => Math.ceil(count() / columns), (column, row) => {
      const index = Math.min(row * columns + column, count() - 1);
      const rows = Math.ceil(count() / columns);
      Object.assign(mark.style, {
        left: `${(100 * (index % columns)) / columns}%`, top: `${(100 * Math.floor(index / columns)) / rows}%`,
        width: `${100 / columns}%`, height: `${100 / rows}%`,
      });
      show(one.canvas, run.samples, index);
      one.text.textContent = `Sample ${index + 1} of ${count()}, drawn from its prior: ${run.prior}`;
    });
    const use = (chosen) => {
      run = chosen;
      numbers.replaceChildren(...run.numbers.map(([name, value, unit]) => el("div", {},
        el("dt", {}, name), el("dd", {}, value, unit && name !== unit ? el("span", { class: "unit" }, unit) : ""))));
      curves.replaceChildren(...Object.entries(run.terms).map(([term, values]) => curve(term, run.epochs, values)));
      sheet.setAttribute("aria-label", `${count()} samples of ${run.label}, seed ${run.seed}; arrow keys choose one`);
      const { samples } = run;
      const scale = Math.max(1, Math.round(48 / samples.width));
      const [across, down] = [samples.width * scale + gap, samples.height * scale + gap];
      render(canvas, [samples], (context, picture) => {
        canvas.width = columns * across;
        canvas.height = Math.ceil(count() / columns) * down;
        context.imageSmoothingEnabled = false;
        for (let index = 0; index < count(); index += 1) {
          context.drawImage(picture, ...place(samples, index),
            (index % columns) * across + gap / 2, Math.floor(index / columns) * down + gap / 2, across - gap, down - gap);
        }
      });
      goTo(0, 0);
    };
    section.append(el("p", {}, `Choose a model and a seed; move over its samples to see one large.${reduced(run.samples)}`));
    section.append(el("div", { class: "widget" }, runChoice(runs, use),
      el("div", { class: "columns" }, sheet,
        el("div", { class: "side-column" }, one.box, curves)),
      el("h3", {}, "Numbers of this run"), numbers));
    use(run);
  }

  // ---- the map of two latents

  const around = (corners, turn = 0) => Array.from({ length: corners }, (_, index) => {
    const angle = (2 * Math.PI * index) / corners + turn - Math.PI / 2;
    return [Math.cos(angle), Math.sin(angle)];
  });
  const cross = [[-0.35, -1], [0.35, -1], [0.35, -0.35], [1, -0.35], [1, 0.35], [0.35, 0.35],
    [0.35, 1], [-0.35, 1], [-0.35, 0.35], [-1, 0.35], [-1, -0.35], [-0.35, -0.35]];
  const SHAPES = {
    o: around(24), "^": around(3), s: around(4, Math.PI / 4), D: around(4), v: around(3, Math.PI), P: cross,
    X: cross.map(([x, y]) => [(x - y) * 0.75, (x + y) * 0.75]), "<": around(3, -Math.PI / 2), ">": around(3, Math.PI / 2),
    "*": around(10).map(([x, y], index) => (index % 2 ? [0.45 * x, 0.45 * y] : [1.2 * x, 1.2 * y])),
  };

  function shape(context, look, x, y, radius) {
    context.beginPath();
    for (const [dx, dy] of SHAPES[look.marker]) context.lineTo(x + radius * dx, y + radius * dy);
    context.closePath();
    context.fillStyle = dark.matches ? look.dark : look.colour;
    context.fill();
    context.stroke();
  }

  function latentMap(maps, points) {
    const canvas = el("canvas");
    const box = el("div", { class: "map paper", role: "application" }, canvas);
    const decoded = large("the decoded image");
    const nearest = large("the nearest test image");
    Object.assign(nearest.canvas, { width: points.sprite.width, height: points.sprite.height });
    const legend = el("div", { class: "legend", role: "group", "aria-label": "show one class alone" });
    const swatches = []; // what draws each
    const behind = el("input", { type: "checkbox", autocomplete: "off" });
    const classBox = el("div");
    let map = maps[0];
    let label = 0; // the class that is decoded
    let alone = null; // the class that is shown alone
    let cursor = { column: 0, row: 0, x: 0.5, y: 0.5 };
    let near = -1;
    const look = (index) => data.classes[points.y ? points.y[index] : 0];
    const shown = (index) => alone === null || points.y[index] === alone;
    const at = (index) => map.z[index].map((value, axis) => {
      const share = (value - map.low[axis]) / (map.high[axis] - map.low[axis]);
      return axis ? 1 - share : share;
    });

    function draw() {
      const ratio = window.devicePixelRatio || 1;
      const size = Math.round(canvas.clientWidth * ratio);
      if (!size) return;
      render(canvas, [map.sprites[label]], (context, picture) => {
        const sprite = map.sprites[label];
        const cell = size / map.steps;
        [canvas.width, canvas.height] = [size, size];
        const ground = ink("--page");
        context.fillStyle = ground;
        context.fillRect(0, 0, size, size);
        lines(context, size, ratio);
        context.imageSmoothingEnabled = false;
        if (behind.checked) {
          const scale = Math.min(cell / sprite.width, cell / sprite.height);
          const [width, height] = [sprite.width * scale, sprite.height * scale];
          for (let index = 0; index < sprite.count; index += 1) {
            context.drawImage(picture, ...place(sprite, index), (index % map.steps) * cell + (cell - width) / 2,
              Math.floor(index / map.steps) * cell + (cell - height) / 2, width, height);
          }
        }
        context.lineWidth = (behind.checked ? 0.8 : 0.6) * ratio;
        context.strokeStyle = behind.checked ? "#ffffff" : ink("--outline");
        const radius = (map.z.length > 600 ? 3 : 4.5) * (behind.checked ? 0.75 : 1) * ratio;
        for (const index of map.z.keys()) {
          const [x, y] = at(index);
          if (shown(index)) shape(context, look(index), x * size, y * size, radius);
        }
        ticks(context, size, ratio, ground);
        for (const [colour, width] of [["#ffffff", 4], ["#000000", 2]]) {
          context.strokeStyle = colour;
          context.lineWidth = width * ratio;
          context.strokeRect(cursor.column * cell, cursor.row * cell, cell, cell);
          if (near >= 0) {
            const [x, y] = at(near);
            context.beginPath();
            context.arc(x * size, y * size, 8 * ratio, 0, 2 * Math.PI);
            context.stroke();
          }
        }
      });
    }

    // Round values along an axis, and where they lie on it, from 0 to 1.
    function marks(axis) {
      const span = map.high[0] - map.low[0];
      const step = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50].find((value) => span / value <= 8) ?? span / 4;
      const found = [];
      for (let value = Math.ceil(map.low[axis] / step) * step; value < map.high[axis]; value += step) {
        found.push({ share: (value - map.low[axis]) / span, text: number(value + 0, step < 1 ? 1 : 0) });
      }
      return found;
    }

    function lines(context, size, ratio) {
      context.fillStyle = ink("--grid");
      for (const { share } of marks(0)) context.fillRect(share * size, 0, ratio, size);
      for (const { share } of marks(1)) context.fillRect(0, (1 - share) * size, size, ratio);
    }

    // Over the points, with an edge that sets them off.
    function ticks(context, size, ratio, ground) {
      context.font = `${11 * ratio}px system-ui, sans-serif`;
      context.lineWidth = 4 * ratio;
      context.lineJoin = "round";
      const write = (text, x, y, align) => {
        context.textAlign = align;
        context.strokeStyle = ground;
        context.strokeText(text, x, y);
        context.fillStyle = ink("--ticks");
        context.fillText(text, x, y);
      };
      for (const axis of [0, 1]) {
        for (const { share, text } of marks(axis)) {
          if (share > 0.06 && share < 0.9) {
            if (axis) write(text, 4 * ratio, (1 - share) * size + 4 * ratio, "left");
            else write(text, share * size, size - 5 * ratio, "center");
          }
        }
      }
      write("z1", size - 5 * ratio, size - 5 * ratio, "right");
      write("z2", 4 * ratio, 13 * ratio, "left");
    }

    const goTo = choosable(box, () => map.steps, () => map.steps, (column, row, x, y) => {
      cursor = { column, row, x, y };
      const value = [0, 1].map((axis) => {
        const share = axis ? 1 - (row + 0.5) / map.steps : (column + 0.5) / map.steps;
        return map.low[axis] + share * (map.high[axis] - map.low[axis]);
      });
      let best = 0.06 ** 2; // of the side: further away is not near
      near = -1;
      for (const index of map.z.keys()) {
        const [px, py] = at(index);
        const distance = (px - x) ** 2 + (py - y) ** 2;
        if (shown(index) && distance < best) [best, near] = [distance, index];
      }
      show(decoded.canvas, map.sprites[label], row * map.steps + column);
      const asked = map.labels ? [" as class ", named(map.labels[label])] : [];
      decoded.text.replaceChildren(`Decoded at z1 = ${number(value[0], 2)}, z2 = ${number(value[1], 2)}`, ...asked);
      nearest.canvas.style.visibility = near < 0 ? "hidden" : "visible";
      if (near >= 0) show(nearest.canvas, points.sprite, near);
      const found = points.y && near >= 0 ? [": ", named(look(near).name)] : [];
      nearest.text.replaceChildren(near < 0 ? "No test image is near" : "Nearest test image", ...found);
      draw();
    });

    if (points.y) {
      const present = new Set(points.y);
      data.classes.forEach((each, index) => {
        if (!present.has(index)) return;
        const swatch = el("canvas", { width: 28, height: 28, "aria-hidden": "true" });
        const context = swatch.getContext("2d");
        swatches.push(() => {
          context.clearRect(0, 0, 28, 28);
          context.strokeStyle = ink("--outline");
          shape(context, each, 14, 14, 9);
        });
        swatches.at(-1)();
        const button = el("button", { type: "button", class: "button", "aria-pressed": "false", title: each.name }, swatch, named(each.name));
        button.addEventListener("click", () => {
          alone = alone === index ? null : index;
          for (const other of legend.children) other.setAttribute("aria-pressed", other === button && alone !== null);
          goTo(cursor.column, cursor.row);
        });
        legend.append(button);
      });
    }
    const use = (chosen) => {
      map = chosen;
      label = 0;
      classBox.replaceChildren(map.labels
        ? choice(map.classes > map.labels.length ? `decoded as (${map.labels.length} of ${map.classes} classes)` : "decoded as", map.labels, (index) => { label = index; goTo(cursor.column, cursor.row); }) : "");
      box.setAttribute("aria-label",
        `Map of ${map.label}: test images in two latents. Arrow keys move over the plane and show what it decodes to.`);
      goTo(Math.floor(map.steps / 2), Math.floor(map.steps / 2));
    };
    behind.addEventListener("change", draw);
    dark.addEventListener("change", () => { swatches.forEach((swatch) => swatch()); draw(); });
    window.addEventListener("resize", draw);
    const made = attach("latent_space",
      el("p", {}, "Move over the plane: beside it is what the place under the hand decodes to, and the test image nearest to it.",
        data.uncoloured ? ` ${data.uncoloured} classes are more than colours and marks can tell apart: none is marked.` : "", reduced(points.sprite)),
      el("div", { class: "controls" }, choice("model", maps.map((each) => each.label), (index) => use(maps[index])), classBox,
        el("label", { class: "plain" }, behind, " decoded plane behind the points")),
      el("div", { class: "columns" }, box, el("div", { class: "side-column" }, decoded.box, nearest.box, legend)));
    if (made) use(map);
  }

  // ---- traversals

  function traversals(runs) {
    const current = large("the image at the chosen place of the traversal");
    const rows = el("div", { class: "rows" });
    let strips = [];
    const use = (run) => {
      const { sprite, latents, nats, values } = run.traversal;
      const middle = Math.floor(values.length / 2);
      strips = latents.map((latent, row) => {
        const canvas = el("canvas");
        const mark = el("div", { class: "mark" });
        const input = el("input", {
          type: "range", min: 0, max: values.length - 1, value: middle, autocomplete: "off",
          "aria-label": `latent ${latent} of ${run.label}, ${number(nats[row], 2)} nats`,
        });
        const set = () => {
          const index = Number(input.value);
          Object.assign(mark.style, {
            left: `${(100 * index) / values.length}%`, width: `${100 / values.length}%`, top: 0, height: "100%",
          });
          input.setAttribute("aria-valuetext", number(values[index], 2));
          return index;
        };
        const move = () => {
          const index = set();
          show(current.canvas, sprite, row * values.length + index);
          current.text.textContent = `z${latent} = ${signed(values[index], 2)}, the others as in the test image`;
        };
        for (const event of ["input", "focus", "pointerdown"]) input.addEventListener(event, move);
        set();
        render(canvas, [sprite], (context, picture) => {
          [canvas.width, canvas.height] = [sprite.width * values.length, sprite.height];
          values.forEach((_, index) => context.drawImage(picture, ...place(sprite, row * values.length + index),
            index * sprite.width, 0, sprite.width, sprite.height));
        });
        return { move, label: el("div", {}, `z${latent}  ${number(nats[row], 2)} nats`), box: el("div", { class: "strip", style: `--count: ${values.length}` }, canvas, mark, input) };
      });
      rows.replaceChildren(...strips.flatMap((strip) => [strip.label, strip.box]));
      strips[0].move();
      thumbs();
    };
    // A thumb as wide as an image makes the slider's places those of the images.
    const thumbs = () => {
      for (const { box } of strips) box.style.setProperty("--thumb", `${box.clientWidth / runs[0].traversal.values.length}px`);
    };
    window.addEventListener("resize", thumbs);
    const made = attach("traversals",
      el("p", {}, "Drag along a row, or choose one and press the arrow keys: one latent moves, the others stay.",
        reduced(runs[0].traversal.sprite)),
      runChoice(runs, use),
      el("div", { class: "columns" }, current.box, el("div", { class: "wide-column" }, rows)));
    if (made) use(runs[0]);
  }

  // ---- one image through every model

  function reconstructions(runs, inputs) {
    const labels = [...new Set(runs.map((run) => run.label))];
    const seeds = [...new Set(runs.map((run) => run.seed))];
    let seed = seeds[0];
    let chosen = 0;
    const out = el("div", { class: "rebuilt", "aria-live": "polite" });
    const limit = el("span");
    const bar = el("canvas", { width: 256, height: 1, "aria-hidden": "true" });
    const heat = (context, shares) => {
      const drawn = context.createImageData(context.canvas.width, context.canvas.height);
      shares.forEach((share, index) => drawn.data.set([...data.heat[Math.round(255 * share)], 255], 4 * index));
      context.putImageData(drawn, 0, 0);
    };
    heat(bar.getContext("2d"), Array.from({ length: 256 }, (_, index) => index / 255));

    const draw = () => {
      const of = labels.map((label) => runs.find((run) => run.label === label && run.seed === seed)).filter(Boolean);
      const printed = (run) => number(run.errors[chosen], 4);
      const lowest = Math.min(...of.map((run) => run.errors[chosen]));
      const alone = of.filter((run) => printed(run) === number(lowest, 4)).length === 1;
      const name = inputs.names ? named(inputs.names[chosen]) : `test image ${chosen + 1}`;
      const first = el("canvas", { role: "img", "aria-label": `input: ${name.textContent ?? name}` });
      const parts = of.map((run) => ({
        run,
        rebuilt: el("canvas", { role: "img", "aria-label": `reconstruction by ${run.label}` }),
        map: el("canvas", { role: "img", "aria-label": `error of ${run.label}`, width: inputs.sprite.width, height: inputs.sprite.height }),
      }));
      show(first, inputs.sprite, chosen);
      out.replaceChildren(el("figure", {}, first, el("figcaption", {}, el("b", {}, "input"), name)),
        ...parts.map(({ run, rebuilt, map }) => {
          const best = of.length > 1 && alone && run.errors[chosen] === lowest;
          show(rebuilt, run.rebuilt, chosen);
          return el("figure", {}, rebuilt, map, el("figcaption", {}, el("b", {}, run.label),
            el("span", { class: best ? "best" : "" }, `MSE ${printed(run)}${best ? " \u2605" : ""}`)));
        }));
      render(bar, [inputs.sprite, ...of.map((run) => run.rebuilt)], (_, truth, ...sheets) => {
        const given = pixels(truth, inputs.sprite, chosen);
        const errors = sheets.map((sheet, index) => {
          const found = pixels(sheet, of[index].rebuilt, chosen);
          return Array.from({ length: found.length / 4 }, (_, pixel) =>
            [0, 1, 2].reduce((sum, channel) => sum + Math.abs(found[4 * pixel + channel] - given[4 * pixel + channel]) / 765, 0));
        });
        const most = errors.flat().reduce((one, two) => Math.max(one, two), 1 / 255);
        errors.forEach((values, index) => heat(parts[index].map.getContext("2d"), values.map((value) => value / most)));
        limit.textContent = number(most, 2);
      });
    };

    const group = `choice${(groups += 1)}`;
    const strip = el("fieldset", { class: "inputs" }, el("legend", {}, "test image"));
    for (let index = 0; index < inputs.sprite.count; index += 1) {
      const input = el("input", {
        type: "radio", name: group, checked: index === 0, autocomplete: "off",
        "aria-label": inputs.names ? `test image ${index + 1}, ${inputs.names[index]}` : `test image ${index + 1}`,
      });
      input.addEventListener("change", () => { chosen = index; draw(); });
      const canvas = el("canvas");
      show(canvas, inputs.sprite, index);
      strip.append(el("label", {}, input, canvas));
    }
    const made = attach("reconstructions", strip,
      el("div", { class: "controls" }, choice("seed", seeds.map(String), (index) => { seed = seeds[index]; draw(); })),
      out, el("div", { class: "scale" }, "absolute error: 0", bar, limit));
    if (made) draw();
  }

  if (data.runs.length) {
    closer(data.runs);
    reconstructions(data.runs, data.inputs);
  }
  const moving = data.runs.filter((run) => run.traversal);
  if (moving.length) traversals(moving);
  if (data.maps.length) latentMap(data.maps, data.points);
})();
