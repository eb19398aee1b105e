"use strict";

// ---- the page --------------------------------------------------------------------------------------------------------

class Page {
  constructor(facts) {
    this.classes = facts.classes;
    this.labels = facts.labels;
    this.colours = facts.colours;
    this.dark_colours = facts.dark_colours;
    this.facts = facts;
    this.count = facts.runs[0].points.length;
    byId("data").textContent = `${facts.data}: ${this.count.toLocaleString("en")} held-out images`;
    document.title = `vaekit explore: ${facts.runs.map((run) => run.name).join(", ")}`;
    this.buildPad();
    this.runs = facts.runs.map((run, index) => new Run(index, run, this));
    byId("runs").append(...this.runs.map((run) => run.article));
    for (const end of ["a", "b"]) byId(`keep-${end}`).addEventListener("click", () => this.runs.forEach((run) => run.keep(end)));
    byId("message").lastElementChild.addEventListener("click", () => say(""));
    this.takeHeldOut(0);
  }

  encode(blob, label, drawn = false) {
    return Promise.all(this.runs.map((run) => run.encode(blob, label, drawn)));
  }

  async takeHeldOut(index) {
    try {
      const answer = await fetch(`/api/images/${index}.png`);
      if (!answer.ok) throw new Error((await answer.json()).error);
      await this.encode(await answer.blob(), this.labels ? this.classes[this.labels[index]] : null);
    } catch (error) {
      say(error.message);
    }
  }

  // The pad holds a whole number of its pixels per pixel of the model, so that what is on it reaches the model as it is.
  buildPad() {
    const [height, width, channels] = this.facts.shape;
    const pad = byId("pad");
    const scale = Math.max(1, Math.round(280 / Math.max(height, width)));
    pad.width = width * scale;
    pad.height = height * scale;
    this.pen = pad.getContext("2d");
    this.pen.imageSmoothingEnabled = false;
    const dark = this.facts.background === 0;
    byId("ink").value = dark ? "#ffffff" : "#000000";
    byId("brush").value = Math.max(1, Math.min(12, Math.max(height, width) / 13));
    if (channels === 1) byId("ink").title = "Grey is what counts: this model knows no colours";
    this.wipe();
    const encodeDrawing = latest(async () => {
      const blob = await new Promise((resolve) => pad.toBlob(resolve, "image/png"));
      await this.encode(blob, null, true);
    });
    let last = null;
    const at = (event) => {
      const box = pad.getBoundingClientRect();
      return [((event.clientX - box.left) / box.width) * pad.width, ((event.clientY - box.top) / box.height) * pad.height];
    };
    const stroke = (event) => {
      const [x, y] = at(event);
      Object.assign(this.pen, { lineCap: "round", lineJoin: "round", lineWidth: Number(byId("brush").value) * scale, strokeStyle: byId("ink").value });
      this.pen.beginPath();
      this.pen.moveTo(...(last || [x, y]));
      this.pen.lineTo(x, y);
      this.pen.stroke();
      last = [x, y];
      encodeDrawing();
    };
    pad.addEventListener("pointerdown", (event) => {
      pad.setPointerCapture(event.pointerId);
      stroke(event);
    });
    pad.addEventListener("pointermove", (event) => last && stroke(event));
    for (const end of ["pointerup", "pointercancel"]) pad.addEventListener(end, () => (last = null));
    byId("clear").addEventListener("click", () => {
      this.wipe();
      encodeDrawing();
    });
    byId("random").addEventListener("click", () => this.takeHeldOut(Math.floor(Math.random() * this.count)));
    byId("file").addEventListener("change", () => {
      const [file] = byId("file").files;
      if (file) this.encode(file, null);
      byId("file").value = "";
    });
    const frame = pad.parentElement;
    for (const name of ["dragenter", "dragover"]) {
      document.addEventListener(name, (event) => {
        event.preventDefault();
        frame.classList.add("over");
      });
    }
    document.addEventListener("dragleave", () => frame.classList.remove("over"));
    document.addEventListener("drop", (event) => {
      event.preventDefault();
      frame.classList.remove("over");
      const [file] = event.dataTransfer.files;
      if (file) this.encode(file, null);
    });
  }

  wipe() {
    const pad = byId("pad");
    this.pen.fillStyle = this.facts.background ? "#fff" : "#000";
    this.pen.fillRect(0, 0, pad.width, pad.height);
  }

  showOnPad(source) {
    const image = new Image();
    image.onload = () => {
      this.pen.imageSmoothingEnabled = false;
      this.pen.drawImage(image, 0, 0, byId("pad").width, byId("pad").height);
    };
    image.src = source;
  }
}

ask("/api/start")
  .then((facts) => (window.explorer = new Page(facts)))
  .catch((error) => say(error.message))
  .finally(() => (byId("loading").hidden = true));
