"use strict";

// ---- small helpers ---------------------------------------------------------------------------------------------------

const byId = (id) => document.getElementById(id);

function make(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in made) made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

function say(text) {
  byId("message").hidden = !text;
  byId("message").firstElementChild.textContent = text || "";
}

async function ask(path, body, type) {
  let answer;
  try {
    const options = body === undefined ? {} : { method: "POST", body, headers: { "Content-Type": type } };
    answer = await fetch(path, options);
  } catch {
    throw new Error("The explorer does not answer: is `vaekit explore` still running?");
  }
  let content;
  try {
    content = await answer.json();
  } catch {
    throw new Error(`The explorer answered with something odd (status ${answer.status}).`);
  }
  if (!answer.ok) throw new Error(content.error);
  return content;
}

// Runs one job at a time; of those that come meanwhile only the last is kept, so that a slider is never behind.
function latest(work) {
  let waiting = null;
  let busy = false;
  return async function (...job) {
    waiting = job;
    if (busy) return;
    busy = true;
    while (waiting) {
      const next = waiting;
      waiting = null;
      try {
        await work(...next);
        say("");
      } catch (error) {
        say(error.message);
      }
    }
    busy = false;
  };
}

const SHAPES = [
  "M8 1a7 7 0 1 0 .01 0z", "M8 1L15 14H1z", "M2 2h12v12H2z", "M8 0l8 8-8 8-8-8z", "M6 1h4v5h5v4h-5v5H6v-5H1V6h5z",
  "M8 15L1 2h14z", "M4 1l4 4 4-4 3 3-4 4 4 4-3 3-4-4-4 4-3-3 4-4-4-4z", "M8 0l2 6h6l-5 3.6 2 6.4-5-4-5 4 2-6.4L0 6h6z", "M1 8L14 1v14z", "M15 8L2 1v14z",
];

const dark = window.matchMedia("(prefers-color-scheme: dark)");
const ink = (name) => getComputedStyle(document.documentElement).getPropertyValue(name); // a colour of the style sheet
const named = (name) => make("bdi", { textContent: name }); // a name from the data, in whatever direction its script runs

function symbol(label, facts) {
  const colours = dark.matches ? facts.dark_colours : facts.colours;
  return { colour: colours[label % colours.length], shape: SHAPES[Math.floor(label / colours.length) % SHAPES.length] };
}
