// Sortable tables, and what living figures are made of: sprites and controls.

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
