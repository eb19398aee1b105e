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
