// Draws boxes on the frame and bars beside it: the counterpart of ferjax/runtime/show/drawing.py.

const LINE = 2; // pixels on the screen

/** Draws a result on its canvas and keeps a card with the bars of each person. */
export class Painter {
  /**
   * @param {HTMLElement} list element that gets one card per person.
   * @param {string[]} names the class names.
   * @param {Object<string, string>} colors color of each class and of "uncertain".
   */
  constructor(list, names, colors) {
    Object.assign(this, { list, names, colors });
    this.cards = new Map(); // track -> card
  }

  /** Draws boxes and labels on the canvas, and updates the cards. */
  draw(canvas, faces) {
    const pixels = canvas.getContext("2d");
    const unit = canvas.width / (canvas.clientWidth || canvas.width); // pixels of the frame in a pixel of the screen
    for (const face of faces) this.#box(pixels, face, unit);
    for (const face of faces) this.#caption(pixels, face, unit);
    this.#keep(new Set(faces.map((face) => face.track)));
    for (const face of faces) this.#card(face);
  }

  /** Removes all cards. */
  clear() {
    this.#keep(new Set());
  }

  #keep(tracks) {
    for (const [track, card] of this.cards) {
      if (tracks.has(track)) continue;
      card.root.remove();
      this.cards.delete(track);
    }
  }

  #box(pixels, { box, label }, unit) {
    for (const [color, width] of [["#000", 2 * LINE], [this.colors[label], LINE]]) {
      pixels.strokeStyle = color; // black first: contrast on any background
      pixels.lineWidth = width * unit;
      pixels.strokeRect(...box);
    }
  }

  #caption(pixels, face, unit) {
    const text = `#${face.track} ${face.label}`;
    pixels.font = `${14 * unit}px system-ui, sans-serif`;
    const [width, height] = [pixels.measureText(text).width + 8 * unit, 20 * unit];
    const x = Math.max(0, Math.min(face.box[0], pixels.canvas.width - width));
    const y = Math.max(0, face.box[1] - height);
    pixels.fillStyle = "#1c1c1c";
    pixels.fillRect(x, y, width, height);
    pixels.fillStyle = "#ebebeb";
    pixels.fillText(text, x + 4 * unit, y + 15 * unit);
  }

  #card(face) {
    if (!this.cards.has(face.track)) this.cards.set(face.track, this.#newCard(face.track));
    const card = this.cards.get(face.track);
    card.root.style.setProperty("--color", this.colors[face.label]);
    const label = face.reason ? `${face.label} (${face.reason})` : face.label;
    card.title.textContent = `#${face.track} ${label} ${percent(face.confidence)}`;
    face.probabilities.forEach((p, i) => {
      card.bars[i].style.width = percent(p);
      card.values[i].textContent = percent(p);
    });
  }

  #newCard(track) {
    const root = element("li", "card");
    const title = root.appendChild(element("h3"));
    const table = root.appendChild(element("table"));
    table.setAttribute("aria-label", `Probabilities of person ${track}`);
    const rows = this.names.map((name) => {
      const row = table.appendChild(element("tr"));
      const head = row.appendChild(element("th", "", name));
      head.scope = "row";
      const empty = row.appendChild(element("td")).appendChild(element("div", "empty"));
      const bar = empty.appendChild(element("div", "bar"));
      bar.style.background = this.colors[name];
      return [bar, row.appendChild(element("td", "value"))];
    });
    this.list.append(root);
    return { root, title, bars: rows.map(([bar]) => bar), values: rows.map(([, value]) => value) };
  }
}

/** Returns a probability as text, such as "87%". */
export function percent(p) {
  return `${Math.round(100 * p)}%`;
}

function element(tag, className = "", text = "") {
  return Object.assign(document.createElement(tag), { className, textContent: text });
}
