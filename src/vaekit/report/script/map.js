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
