// Keeps the faces of each frame and writes them as CSV: the counterpart of ferjax/runtime/show/log.py.

/** The log of the page, one row per face and frame, with the columns of `ferjax live --log FILE.csv`. */
export class Log {
  /** @param {string[]} names the class names. */
  constructor(names) {
    const columns = ["probability", "raw_probability"].flatMap((kind) => names.map((name) => `${kind}_${name}`));
    const head = ["time", "frame", "image", "track", "x", "y", "width", "height", "label", "confidence"];
    this.names = names;
    const latencies = ["capture", "detect", "classify", "draw"].map((part) => `latency_ms_${part}`);
    this.head = line([...head, ...columns, ...latencies]);
    this.rows = [];
  }

  /** Adds the faces of a result of the loop, with the latencies of capture and drawing in milliseconds. */
  write({ frame, faces, latency }) {
    for (const face of faces) {
      const raw = face.raw ?? this.names.map(() => "");
      const latencies = [latency.capture, latency.detect, latency.classify, latency.draw];
      this.rows.push(
        line([
          rounded(frame.time, 4), frame.index, frame.name, face.track, ...face.box, face.label,
          ...[face.confidence, ...face.probabilities, ...raw].map((p) => (p === "" ? p : Number(p.toPrecision(7)))),
          ...latencies.map((ms) => rounded(ms, 3)),
        ]),
      );
    }
  }

  /** Returns the file. */
  file() {
    return new Blob([this.head, ...this.rows], { type: "text/csv" });
  }
}

function rounded(value, digits) {
  return Number(value.toFixed(digits));
}

/** Returns a line of CSV. */
function line(values) {
  return values.map((v) => (/[",\r\n]/.test(v) ? `"${String(v).replaceAll('"', '""')}"` : v)).join(",") + "\r\n";
}
