/** The two dialogs: the question before a verb, and the large picture. */

import { byId, make, pause, write } from "./dom.js";
import { showState, spelled } from "./row.js";
import { DEVICES, VERBS } from "./verbs.js";

const LARGE_PICTURE_EVERY = 1000; // milliseconds

function closeBy(dialog) {
  dialog.querySelector("[data-cancel]").addEventListener("click", () => dialog.close(""));
}

export const ask = {
  element: byId("ask"),
  form: byId("ask").querySelector("form"),
  words: byId("ask-words"),
  /** What a guest gets to shut down, unless somebody says otherwise. */
  seconds: 15,
  /** @type {?import("./row.js").Row} */
  row: null,

  /**
   * @param {import("./row.js").Row} row
   * @returns {Promise<?import("./verbs.js").Choices>} null if it shall not be done
   */
  about(row, name) {
    Object.assign(this, { row, name });
    const { labels, fields } = VERBS[name];
    const label = labels[row.condition] ?? name;
    write(byId("ask-title"), `${label}: ${row.machine.name}`);
    write(this.element.querySelector(".act"), label);
    this.form.reset();
    this.form.seconds.value = this.seconds;
    this.showFields(fields?.(row.condition) ?? []);
    this.refresh(row);
    this.element.returnValue = "";
    this.element.showModal();
    return new Promise((decided) => {
      const close = () => decided(this.element.returnValue === "yes" ? this.choices : null);
      this.element.addEventListener("close", close, { once: true });
    });
  },

  showFields(asked) {
    for (const field of this.element.querySelectorAll(".field")) {
      field.hidden = !asked.includes(field.dataset.field);
      field.querySelector("input, select").disabled = field.hidden;
    }
  },

  get choices() {
    const { seconds, force, once, device } = this.form;
    return {
      seconds: Number(seconds.value),
      force: force.checked,
      once: once.checked,
      device: device.value,
    };
  },

  /** Says what will happen, by what is chosen and by the state that the machine is in now. */
  refresh(row) {
    if (this.row === row && row) {
      write(this.words, VERBS[this.name].warning(row.condition, this.choices));
    }
  },

  listen() {
    closeBy(this.element);
    this.form.addEventListener("input", () => this.refresh(this.row));
    this.element.addEventListener("close", () => {
      this.row = null;
    });
  },
};

export const screen = {
  element: byId("screen"),
  image: byId("screen").querySelector("img"),
  hint: byId("screen").querySelector(".hint"),
  /** @type {?import("./row.js").Row} */
  row: null,

  /** @param {import("./row.js").Row} row */
  async open(row) {
    this.row = row;
    row.setEnlarged(true);
    this.showPicture(row);
    this.refresh(row);
    this.element.showModal();
    while (this.row === row) {
      await row.freshen();
      await pause(LARGE_PICTURE_EVERY);
    }
  },

  closed() {
    const { row } = this;
    this.row = null;
    row.setEnlarged(false);
    this.image.removeAttribute("src");
  },

  refresh(row) {
    if (this.row !== row) return;
    write(byId("screen-title"), row.machine.name);
    this.image.alt = `Screen of ${row.machine.name}`;
    showState(this.element.querySelector(".state"), row.machine.state, row.reason);
    const facts = Object.entries(factsOf(row)).map(([term, fact]) =>
      make("div", "", make("dt", "", term), make("dd", "", fact)));
    this.element.querySelector("dl").replaceChildren(...facts);
  },

  showPicture(row) {
    if (this.row !== row) return;
    const { src, hidden } = row.picture;
    if (!hidden) this.image.src = src;
    this.image.hidden = hidden;
    write(this.hint, hidden ? row.whyNoPicture : "");
  },

  listen() {
    closeBy(this.element);
    this.element.addEventListener("close", () => this.closed());
  },
};

/** What there is no room for in the row. @returns {Record<string, string>} */
function factsOf({ machine, boot }) {
  const list = (devices) => devices.map(spelled).join(", ") || "nothing";
  const facts = { UUID: machine.uuid };
  if (!boot) return facts;
  if (boot.once) [facts["Next boot only"]] = DEVICES[boot.once];
  facts.Boots = list(boot.order);
  if (boot.pending) facts.Boots += " (pending: it runs by another order until it is switched off)";
  facts["Default order"] = list(boot.default);
  return facts;
}
