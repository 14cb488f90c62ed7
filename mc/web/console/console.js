/**
 * The console page: every machine, its screen, and what it boots next.
 *
 * It uses the public URLs only, so it is also an example of a client. Machines come from the
 * follower into the list; a row reads the rest while it is in view; verbs are done by `choose`.
 */

/* Small things that every part of the page does with elements, words and time. */

const byId = (id) => document.getElementById(id);

/** @param {number} time in milliseconds */
const pause = (time) => new Promise((done) => setTimeout(done, time));

const clock = () => new Date().toLocaleTimeString();

/** An element with a class and children, which are elements or text. */
function make(tag, className, ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...children);
  return element;
}

/** Changes text only where it differs: what is announced is not to be announced again. */
function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Writes text that there may be too little room for. */
function writeLine(element, text) {
  write(element, text);
  element.title = text;
}

/** A name in which nothing hides: control and direction characters are spelled out. */
function printable(name) {
  return name.replace(/[\p{Cc}\p{Cf}]/gu, (one) => `\\u{${one.codePointAt(0).toString(16)}}`);
}

/** Text of which case and Unicode form make no difference. */
function folded(text) {
  return text.toUpperCase().toLowerCase().normalize("NFC");
}

/** Tells those who do not see the page. */
function speak(text) {
  byId("spoken").textContent = text;
}

function untilVisible() {
  if (!document.hidden) return Promise.resolve();
  return new Promise((seen) => {
    document.addEventListener("visibilitychange", () => seen(), { once: true });
  });
}

/* Talking to the controller. */

// An action answers when it is done; the controller's own deadlines are shorter.
const ACTION_SECONDS = 150;
const READ_SECONDS = 10;

/** The controller answered with an error, in RFC 9457 JSON. */
class Refusal extends Error {
  constructor(status, { detail = `status ${status}`, outcome }) {
    super(outcome === "unknown" ? `${detail}. What came of it is not known` : detail);
    this.status = status;
  }

  /** Whether it says nothing about the machine: libvirt is away, busy or slow. */
  get passing() {
    return [503, 504].includes(this.status);
  }
}

/** The controller did not answer at all. */
class Silence extends Error {}

/**
 * One request, and its answer as JSON or as a blob. Throws Refusal or Silence.
 * @param {string} path
 * @param {{method?: string, body?: object, seconds?: number, as?: "json" | "blob"}} [options]
 */
async function request(path, options = {}) {
  const { method = "GET", body, seconds = READ_SECONDS, as = "json" } = options;
  try {
    const response = await fetch(path, {
      method,
      headers: { Accept: "application/json", ...(body && { "Content-Type": "application/json" }) },
      body: body && JSON.stringify(body),
      signal: AbortSignal.timeout(1000 * seconds),
    });
    if (response.ok) return await response[as]();
    const explained = response.headers.get("Content-Type")?.includes("json");
    throw new Refusal(response.status, explained ? await response.json() : {});
  } catch (error) {
    if (error instanceof Refusal) throw error;
    const unknown = method === "GET" ? "" : ". What came of it is not known";
    throw new Silence(`the controller did not answer${unknown}`, { cause: error });
  }
}

/** Lets a few tasks run at a time, the others in the order in which they came. */
class Lane {
  constructor(places) {
    this.places = places;
    this.waiting = [];
  }

  get full() {
    return this.places === 0;
  }

  async run(task) {
    if (this.full) await new Promise((turn) => this.waiting.push(turn));
    else this.places -= 1;
    try {
      return await task();
    } finally {
      if (this.waiting.length) this.waiting.shift()();
      else this.places += 1;
    }
  }
}

/**
 * A browser keeps six connections to one server, of which the event stream holds one. Reading and
 * the actions that wait for a guest leave some to those who are in a hurry.
 */
const lanes = { reading: new Lane(2), waiting: new Lane(2), acting: new Lane(2) };

/**
 * The verbs, by the same table as the controller's own (mc/verbs.py): what they are called, where
 * they make sense, and what they do to a running guest.
 *
 * @typedef {"off" | "running" | "paused" | "stalled" | "crashed" | "suspended" |
 *   "settling" | "on"} Condition "on": that is all that service.state_words = "power" tells
 * @typedef {{seconds?: number, force?: boolean, once?: boolean, device?: string,
 *   discard?: boolean}} Choices
 *
 * @typedef {object} Verb
 * @property {Partial<Record<Condition, string>>} labels its name in each condition that it is for
 * @property {Condition[]} [direct] where it has a button in the row; elsewhere it is in a menu
 * @property {"boot" | "more"} [menu]
 * @property {(found: Condition, choices: Choices) => string} [warning] a verb with one asks first
 * @property {(found: Condition) => string[]} [fields] what else is asked
 * @property {(choices: Choices) => object} [body] the parameters of the request
 * @property {"PUT"} [method] instead of POST
 * @property {string} [path] below the machine's URL
 */

/** All states, as the filter shows them; on and off are for service.state_words = "power". */
const STATES = [
  "running", "idle", "on", "paused", "in shutdown", "pmsuspended", "crashed", "no state",
  "shut off", "off",
];
const BY_STATE = {
  "shut off": "off",
  off: "off",
  paused: "paused",
  crashed: "crashed",
  pmsuspended: "suspended",
  "in shutdown": "settling",
  on: "on",
};
const BY_PAUSE = {
  "I/O error": "stalled",
  crashed: "crashed",
  "shutting down": "settling",
  "starting up": "settling",
};
/** The states of which one wants to know the reason. */
const WITH_REASON = ["paused", "crashed"];

/** @returns {Condition} */
function condition(state, reason = "") {
  return (state === "paused" && BY_PAUSE[reason]) || BY_STATE[state] || "running";
}

/** The boot devices that one can choose, as a name and in a sentence. */
const DEVICES = {
  pxe: ["network", "from the network"],
  disk: ["disk", "from its disk"],
  cdrom: ["CD-ROM", "from its CD-ROM"],
  default: ["default order", "by its default order"],
  none: ["nothing", ""],
};

/** What becomes of a guest whose power is cut, or that is reset. */
const LOSS = {
  running: "Its guest is not asked: what it has not written to its disk is lost.",
  paused: "Its guest is paused: what it has in memory is lost.",
  stalled: "Its guest waits after an I/O error: what it has in memory is lost.",
  crashed: "Its guest has crashed: what is left in its memory is lost.",
  suspended: "Its guest sleeps: what it has in memory is lost.",
  settling: "Its guest is shutting down, and does not get to finish.",
  on: "Its guest is not asked: what it has in memory or has not written to its disk is lost.",
};
const ON = /** @type {Condition[]} */ (Object.keys(LOSS));
const ANY = /** @type {Condition[]} */ (["off", ...ON]);
/** Whose guest can be asked to shut down, or is at it already. */
const LISTENING = ["running", "settling", "on"];

/** Who is asked to shut down: of a machine that is on it is not known whether its guest runs. */
const guest = (found) => (found === "on" ? "Its guest, if it runs," : "Its guest");

const labelled = (label, conditions) => Object.fromEntries(conditions.map((each) => [each, label]));

function powerIsCutAfter(seconds) {
  const time = seconds === 1 ? "1 second" : `${seconds} seconds`;
  return `if it is not off after ${time}, its power is cut, and what it has not written to its `
    + "disk is lost.";
}

function warnOfPowerOff(found, { seconds, force }) {
  const asked = `${guest(found)} is asked to shut down`;
  if (force) return `${asked}; ${powerIsCutAfter(seconds)}`;
  return `${asked}. If it does not listen, it runs on.`;
}

function warnOfReboot(found) {
  if (found === "paused") return "Its guest is asked to reboot, and does so when it is resumed.";
  const asked = `${guest(found)} is asked to shut down, and boots again`;
  return `${asked}. If it does not listen, it runs on.`;
}

function warnOfBoot(device) {
  return (found, { seconds, once }) => {
    const [, source] = DEVICES[device];
    const start = once
      ? `starts ${source}, this once: later boots are by the order that is set now.`
      : `starts ${source}, and so it does at every later boot.`;
    if (found === "off") return `It is off. It ${start}`;
    const asked = LISTENING.includes(found) && seconds > 0;
    const before = asked
      ? `${guest(found)} is asked to shut down; ${powerIsCutAfter(seconds)}`
      : `Its power is cut at once. ${LOSS[found]}`;
    return `${before} Then it ${start}`;
  };
}

/** What a machine does after what concerns its next boot only. */
const MEANWHILE = {
  off: "It stays off.",
  running: "It runs on.",
  paused: "It stays paused.",
  stalled: "It stays paused.",
  crashed: "It stays as it is, crashed.",
  suspended: "It sleeps on.",
  settling: "It goes on shutting down.",
  on: "It stays on.",
};

function warnOfSetting(found, { device, once }) {
  const now = MEANWHILE[found];
  if (device === "none") return `${now} What was set for one boot only is taken back.`;
  const [, source] = DEVICES[device];
  const when = once ? "The next boot, and only that one, is" : "From now on it boots";
  return `${now} ${when} ${source}.`;
}

function warnOfReset(found) {
  const boot = found === "paused" ? "boots when it is resumed" : "boots";
  return `It is reset, and ${boot}, by the order that is set. ${LOSS[found]}`;
}

/** Only a machine that is off can have a memory image from which it would go on. */
const savedIn = (found) => (found === "off" ? ["discard"] : []);

/** @returns {Verb} */
function bootVerb(label, device) {
  return {
    labels: labelled(label, ANY),
    menu: "boot",
    warning: warnOfBoot(device),
    fields: (found) => ["once", LISTENING.includes(found) ? "seconds" : "", ...savedIn(found)],
    body: ({ seconds, once, discard }) => ({ grace: seconds, once, discard_saved: discard }),
  };
}

/** @type {Record<string, Verb>} */
const VERBS = {
  power_on: {
    labels: { off: "Power on", paused: "Resume", suspended: "Wake up", on: "Resume or wake up" },
    direct: ["off", "paused", "suspended"],
  },
  power_off: {
    labels: labelled("Power off", ["running", "on"]),
    direct: ["running", "on"],
    warning: warnOfPowerOff,
    fields: () => ["seconds", "force"],
    body: ({ seconds, force }) => ({ wait: seconds, force }),
  },
  reboot: {
    labels: labelled("Reboot", ["running", "paused", "on"]),
    direct: ["running", "on"],
    warning: warnOfReboot,
  },
  power_cycle: {
    labels: labelled("Power cycle", ON),
    direct: ["stalled", "crashed"],
    warning: (found) => `Its power is cut, and it starts again. ${LOSS[found]}`,
  },
  force_reset: {
    labels: labelled("Reset", ON),
    warning: warnOfReset,
  },
  force_off: {
    labels: labelled("Force off", ON),
    direct: ["settling"],
    warning: (found) => `Its power is cut. ${LOSS[found]}`,
  },
  nmi: {
    labels: labelled("Send an NMI", ON),
    warning: () => "Its guest gets a non-maskable interrupt. By its own settings it ignores it, "
      + "writes a memory dump, or crashes.",
  },
  pxeboot: bootVerb("PXE boot", "pxe"),
  diskboot: bootVerb("Disk boot", "disk"),
  defaultboot: bootVerb("Default boot", "default"),
  boot: {
    labels: labelled("Set what boots next", ANY),
    menu: "boot",
    warning: warnOfSetting,
    fields: (found) => ["device", "once", ...savedIn(found)],
    body: ({ device, once, discard }) => ({ device, once, discard_saved: discard }),
    method: "PUT",
    path: "boot",
  },
};

/** What a verb is called where the machine is in this condition, or was a moment ago. */
function labelOf(name, found) {
  const { labels } = VERBS[name];
  return labels[found] ?? Object.values(labels)[0];
}

/** The verbs of a menu that make sense in a condition and have no button of their own there. */
function verbsOf(menu, found) {
  return Object.keys(VERBS).filter((name) => {
    const { labels, direct = [], menu: place = "more" } = VERBS[name];
    return place === menu && found in labels && !direct.includes(found);
  });
}

/**
 * One machine in the list.
 *
 * Everything is changed in place, so that focus and an open menu outlive any news. What the list of
 * machines does not tell (boot order, picture, reason) is read while somebody looks at it. A row
 * says on its element what is new: `row:changed`, `row:picture`, with itself as the detail.
 *
 * @typedef {{id: ?number, name: string, uuid: string, state: string, power: "on" | "off"}} Machine
 * @typedef {{order: string[], pending: boolean, once: ?string, running_once: ?string,
 *   ended_once: ?string, default: string[]}} Boot
 */

// Milliseconds after which details are read again though nobody has said that they changed, and
// after which a machine without a picture is asked for one again.
const DETAILS_LAST = 10000;
const REFUSAL_LASTS = 15000;

class Row {
  /** @param {Machine} machine */
  constructor(machine) {
    this.element = byId("row").content.firstElementChild.cloneNode(true);
    this.element.dataset.uuid = machine.uuid;
    this.picture = this.element.querySelector("img");
    this.hint = this.element.querySelector(".hint");
    this.order = this.element.querySelector(".order");
    this.menuButton = this.element.querySelector("[data-menu=boot]");
    this.inView = false;
    this.gone = false;
    /** Whether it is shown large, and so watched wherever it is in the list. */
    this.enlarged = false;
    this.reason = "";
    /** @type {?Boot} */
    this.boot = null;
    this.readAt = 0;
    this.noPictureUntil = 0;
    this.update(machine);
  }

  get name() {
    return printable(this.machine.name);
  }

  get url() {
    return `/service/${this.machine.uuid}`;
  }

  get condition() {
    return condition(this.machine.state, this.reason);
  }

  /** Whether somebody is at work here: has the focus, or has just done something. */
  get inUse() {
    const focused = this.element.contains(document.activeElement);
    return focused || this.element.querySelector(".entry") !== null;
  }

  get watched() {
    return this.inView || this.enlarged;
  }

  /**
   * @param {Machine} machine
   * @param {boolean} news whether something about it has changed, be it in the object or not
   */
  update(machine, news = false) {
    const old = this.machine;
    this.machine = machine;
    const changed = !old || ["id", "name", "state"].some((each) => old[each] !== machine[each]);
    if (changed) {
      if (old?.state !== machine.state) this.reason = "";
      this.noPictureUntil = 0;
      this.show();
    }
    if (changed || news || Date.now() - this.readAt > DETAILS_LAST) this.outdated = true;
    if (this.outdated && this.watched) this.freshen();
  }

  show() {
    const { state, power } = this.machine;
    write(this.element.querySelector("h2"), this.name);
    showState(this.element.querySelector(".state"), state, this.reason);
    this.element.querySelector(".verbs").ariaLabel = this.name;
    if (power === "off") this.dropPicture("off");
    this.namePicture();
    for (const button of this.element.querySelectorAll("[data-verb]")) this.showVerb(button);
    const more = this.element.querySelector("[data-menu=more]");
    this.showButton(more, verbsOf("more", this.condition).length > 0);
    this.tell("row:changed");
  }

  showVerb(button) {
    const { labels, direct } = VERBS[button.dataset.verb];
    const fits = direct.includes(this.condition);
    if (fits) write(button, labels[this.condition]);
    this.showButton(button, fits);
  }

  showButton(button, fits) {
    if (!fits) this.rescueFocus(button);
    button.hidden = !fits;
  }

  /** Focus must not be lost with what goes: it moves to the button of a menu. */
  rescueFocus(leaving) {
    if (leaving.contains(document.activeElement)) this.menuButton.focus();
  }

  tell(what) {
    this.element.dispatchEvent(new CustomEvent(what, { bubbles: true, detail: this }));
  }

  setInView(inView) {
    this.inView = inView;
    if (inView) this.freshen();
    else this.dropIfUnwatched();
  }

  setEnlarged(enlarged) {
    this.enlarged = enlarged;
    this.dropIfUnwatched();
  }

  dropIfUnwatched() {
    if (!this.watched) this.dropPicture(this.machine.power === "off" ? "off" : "");
  }

  /** Forgets what libvirt refused: it was away, and is back. */
  retry() {
    this.noPictureUntil = 0;
    this.outdated = true;
    if (this.watched) this.freshen();
  }

  /** Reads what is outdated, and the picture; one call at a time. */
  async freshen() {
    if (this.freshening) return;
    this.freshening = true;
    try {
      while (this.outdated && this.watched) {
        // By its turn it may have been scrolled out of view.
        await lanes.reading.run(() => this.watched && this.readDetails());
      }
      await lanes.reading.run(() => this.readPicture());
    } catch (error) {
      // Whoever follows the machines finds out too, and shows it for all. It is tried again soon.
      if (!(error instanceof Silence || error.passing)) throw error;
    } finally {
      this.freshening = false;
    }
  }

  async readDetails() {
    this.outdated = false;
    try {
      await this.readReason();
      this.showBoot(await request(`${this.url}/boot`));
      this.readAt = Date.now();
    } catch (error) {
      this.outdated = !(error instanceof Refusal) || error.passing;
      // What was known before is worth more than that libvirt is busy.
      if (error instanceof Refusal && !(error.passing && this.boot)) this.showNoBoot(error.message);
      if (this.outdated) throw error;
    }
  }

  /** The reason for the state, where it makes a difference. */
  async readReason() {
    if (this.reason || !WITH_REASON.includes(this.machine.state)) return;
    const { state, reason } = await request(`${this.url}/state_controller/status`);
    if (state !== this.machine.state) return;
    this.reason = reason;
    this.show();
  }

  /** @param {Boot} boot */
  showBoot(boot) {
    if (JSON.stringify(boot) === JSON.stringify(this.boot)) return;
    this.boot = boot;
    const devices = boot.order.map((device) => make("li", "", spelled(device)));
    if (boot.once) devices.unshift(make("li", "once", `${DEVICES[boot.once][0]}, once`));
    if (!devices.length) devices.push(make("li", "", "nothing"));
    const tag = (word, why) => make("p", "tag", word, make("span", "unseen", `: ${why}`));
    const tags = boot.pending ? [tag("pending", whyPending(boot))] : [];
    if (boot.ended_once) tags.push(tag("ended unseen", whyEnded(boot)));
    this.order.replaceChildren(...tags, make("ol", "", ...devices));
    this.order.title = devices.map((device) => device.textContent).join(", then ");
    this.tell("row:changed");
  }

  showNoBoot(why) {
    this.boot = null;
    const words = `not known: ${why}`;
    this.order.replaceChildren(make("p", "label", words));
    this.order.title = words;
  }

  async readPicture() {
    if (!this.wantsPicture) return;
    try {
      const blob = await request(`${this.url}/screenshot`, { as: "blob" });
      if (this.wantsPicture) this.showPicture(URL.createObjectURL(blob));
    } catch (error) {
      if (!(error instanceof Refusal) || error.passing) throw error;
      // A machine that has been switched off meanwhile shows that already.
      if (!this.wantsPicture) return;
      this.noPictureUntil = Date.now() + REFUSAL_LASTS;
      this.dropPicture("no picture", error.message);
    }
  }

  get wantsPicture() {
    return this.watched && this.machine.power === "on" && Date.now() >= this.noPictureUntil;
  }

  showPicture(url) {
    const old = this.picture.src;
    this.picture.src = url;
    this.picture.hidden = false;
    write(this.hint, "");
    this.namePicture();
    this.tell("row:picture");
    if (old) URL.revokeObjectURL(old);
  }

  dropPicture(hint, why = hint) {
    if (this.picture.src) URL.revokeObjectURL(this.picture.src);
    this.picture.removeAttribute("src");
    this.picture.hidden = true;
    write(this.hint, hint);
    this.namePicture();
    this.whyNoPicture = why;
    this.tell("row:picture");
  }

  namePicture() {
    const hint = this.hint.textContent && `: ${this.hint.textContent}`;
    this.element.querySelector(".picture").ariaLabel = `Screen of ${this.name}${hint}`;
  }

  /** Ends whatever it holds: the machine is gone. */
  close() {
    this.inView = this.enlarged = false;
    this.dropPicture("gone", "this machine is gone");
    this.element.remove();
  }
}

/** `network:52:54:00:00:01:01`, as one reads it. */
function spelled(device) {
  return device.replace(":", " ");
}

/** A state as a word, a shape and a colour. */
function showState(place, state, reason = "") {
  const found = condition(state, reason);
  place.dataset.condition = found === "on" ? "running" : found;
  const told = reason && reason !== "unknown";
  writeLine(place.querySelector("span"), told ? `${state} (${reason})` : state);
}

/* All machines: the list, which of them are in view, and the filter. */

// Milliseconds of work on the list after which the page gets to breathe, and the rows that are made
// before it does so for the first time.
const SLICE = 8;
const FIRST_ROWS = 12;

const { compare } = new Intl.Collator(undefined, { numeric: true });

const machines = {
  element: byId("machines"),
  /** By UUID. @type {Map<string, Row>} */
  rows: new Map(),
  /**
   * What is still to be taken from the last list.
   * @type {Map<string, Machine>}
   */
  coming: new Map(),

  /**
   * Takes the whole list, a few rows at a time, so that a thousand of them do not hold up the page.
   * @param {Machine[]} list
   */
  take(list) {
    const present = new Set(list.map(({ uuid }) => uuid));
    for (const uuid of this.rows.keys()) if (!present.has(uuid)) this.forget(uuid);
    const sorted = list.sort((one, other) => compare(one.name, other.name));
    this.coming = new Map(sorted.map((machine) => [machine.uuid, machine]));
    if (!this.taking) this.takeComing();
  },

  async takeComing() {
    this.taking = true;
    for (let number = 0; number < FIRST_ROWS; number += 1) this.takeNext();
    while (this.coming.size) {
      filter.count();
      await pause(0);
      for (const end = performance.now() + SLICE; performance.now() < end;) this.takeNext();
    }
    this.taking = false;
    filter.count();
  },

  takeNext() {
    const [next] = this.coming.values();
    if (next) this.put(next);
  },

  /** Takes one machine, known or new. */
  put(machine, news = false) {
    this.coming.delete(machine.uuid);
    const known = this.rows.get(machine.uuid);
    const row = known ?? new Row(machine);
    const named = known?.machine.name;
    if (known) known.update(machine, news);
    else this.rows.set(machine.uuid, row);
    if (named !== machine.name) this.insert(row);
    // Somebody at work in a row is not to lose it to the filter by that.
    row.element.hidden = !filter.admits(machine) && (row.element.hidden || !row.inUse);
    if (!known) view.observe(row.element);
  },

  /** Puts a row where its name belongs; looked for from the end: at first they come in order. */
  insert(row) {
    const focused = document.activeElement;
    const follows = ({ dataset }) =>
      compare(this.rows.get(dataset.uuid).machine.name, row.machine.name) > 0;
    let before = this.element.lastElementChild;
    while (before && (before === row.element || follows(before))) {
      before = before.previousElementSibling;
    }
    if (before) before.after(row.element);
    else this.element.prepend(row.element);
    if (row.element.contains(focused)) focused.focus({ preventScroll: true });
  },

  forget(uuid) {
    this.coming.delete(uuid);
    const row = this.rows.get(uuid);
    if (!row) return;
    const next = row.element.nextElementSibling ?? row.element.previousElementSibling;
    const hadFocus = row.element.contains(document.activeElement);
    row.gone = true;
    row.tell("row:gone");
    view.unobserve(row.element);
    row.close();
    this.rows.delete(uuid);
    if (hadFocus) (next && this.of(next) ? this.of(next).menuButton : filter.name).focus();
  },

  retry() {
    for (const row of this.rows.values()) row.retry();
  },

  /** The row that an element belongs to. */
  of(element) {
    return this.rows.get(element.closest(".row")?.dataset.uuid);
  },

  /** All of them by what is known now, also those that have no row yet. @returns {Machine[]} */
  get all() {
    const known = Array.from(this.rows, ([uuid, { machine }]) => [uuid, machine]);
    return [...new Map([...known, ...this.coming]).values()];
  },

  get inView() {
    return [...this.rows.values()].filter((row) => row.inView);
  },
};

const view = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) machines.of(target)?.setInView(isIntersecting);
}, { rootMargin: "100px" });

const filter = {
  form: byId("filter"),
  name: byId("filter-name"),
  /** By state; the empty one stands for all. @type {Map<string, HTMLInputElement>} */
  choices: new Map(),

  /** @param {Machine} machine */
  admits({ name, state }) {
    const wanted = this.form.elements.state.value;
    const text = folded(this.name.value.trim());
    if (wanted && wanted !== state) return false;
    return [name, printable(name)].some((each) => folded(each).includes(text));
  },

  apply() {
    for (const row of machines.rows.values()) row.element.hidden = !this.admits(row.machine);
    this.count();
  },

  /** Shows how many machines there are, soon: many may change at a time. */
  count() {
    if (this.counting) return;
    this.counting = requestAnimationFrame(() => {
      this.counting = 0;
      this.showCounts(machines.all);
    });
  },

  /** @param {Machine[]} all */
  showCounts(all) {
    const numbers = { "": all.length };
    for (const { state } of all) numbers[state] = (numbers[state] ?? 0) + 1;
    for (const [state, input] of this.choices) {
      const label = input.parentElement;
      write(label.querySelector("b"), `${numbers[state] ?? 0}`);
      label.hidden = !(numbers[state] || input.checked || !state);
    }
    const rows = [...machines.rows.values()];
    const shown = all.length - rows.filter(({ element }) => element.hidden).length;
    write(byId("count"), shown === all.length ? "" : `${shown} of ${all.length} shown`);
    byId("nothing").hidden = shown > 0;
    write(byId("nothing"), all.length ? "No machine fits the filter." : "There are no machines.");
  },

  listen() {
    for (const state of ["", ...STATES]) {
      const input = make("input", "");
      Object.assign(input, { type: "radio", name: "state", value: state, checked: !state });
      const words = make("span", "", `${state || "all"} `, make("b", "", "0"));
      const label = make("label", "", input, words);
      label.hidden = Boolean(state);
      this.choices.set(state, input);
      byId("filter-state").append(label);
    }
    this.form.addEventListener("input", () => {
      this.apply();
      scrollTo(0, 0);
    });
    this.form.addEventListener("submit", (event) => event.preventDefault());
  },
};

/* The two dialogs: the question before a verb, and the large picture. */

const LARGE_PICTURE_EVERY = 1000; // milliseconds

/** Opens a dialog at its beginning: what has the focus is at its end. */
function show(dialog) {
  dialog.showModal();
  dialog.scrollTop = 0;
}

/** @param {typeof ask | typeof screen} part */
function closeBy(part) {
  const { element: dialog } = part;
  dialog.querySelector("[data-cancel]").addEventListener("click", () => dialog.close(""));
  dialog.addEventListener("close", () => {
    // What had the focus before may be gone, and even its row.
    const focused = document.activeElement;
    if (focused !== document.body && !dialog.contains(focused)) return;
    const { element, gone, menuButton } = part.row;
    (gone || element.hidden ? filter.name : menuButton).focus();
  });
}

const ask = {
  element: byId("ask"),
  form: byId("ask").querySelector("form"),
  words: byId("ask-words"),
  act: byId("ask").querySelector(".act"),
  /** What a guest gets to shut down, unless somebody says otherwise. */
  seconds: 15,
  /** @type {?Row} */
  row: null,

  /**
   * @param {Row} row
   * @returns {Promise<?Choices>} null if it shall not be done
   */
  about(row, name) {
    Object.assign(this, { row, name });
    const { fields } = VERBS[name];
    const label = labelOf(name, row.condition);
    write(byId("ask-title"), `${label}: ${row.name}`);
    write(this.act, label);
    this.form.reset();
    this.form.seconds.value = this.seconds;
    this.showFields(fields?.(row.condition) ?? []);
    this.refresh(row);
    this.element.returnValue = "";
    show(this.element);
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
    const { seconds, force, once, device, discard } = this.form;
    return {
      seconds: Number(seconds.value),
      force: force.checked,
      once: once.checked,
      discard: discard.checked,
      device: device.value,
    };
  },

  /** Says what will happen, by what is chosen and by the state that the machine is in now. */
  refresh(row) {
    if (this.row !== row || !row) return;
    const { labels, warning } = VERBS[this.name];
    const fits = !row.gone && row.condition in labels;
    const now = row.gone ? "It is gone now" : `It is ${row.machine.state} now`;
    write(this.words, fits ? warning(row.condition, this.choices) : `${now}: nothing can be done.`);
    this.act.disabled = !fits;
  },

  listen() {
    closeBy(this);
    this.form.addEventListener("input", () => this.refresh(this.row));
    this.element.addEventListener("close", () => {
      this.row = null;
    });
  },
};

const screen = {
  element: byId("screen"),
  image: byId("screen").querySelector("img"),
  hint: byId("screen").querySelector(".hint"),
  /** @type {?Row} */
  row: null,

  /** @param {Row} row */
  async open(row) {
    this.row = row;
    row.setEnlarged(true);
    this.showPicture(row);
    this.refresh(row);
    show(this.element);
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
    write(byId("screen-title"), row.name);
    this.image.alt = `Screen of ${row.name}`;
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
    closeBy(this);
    this.element.addEventListener("close", () => this.closed());
  },
};

/** @param {Boot} boot */
function whyPending({ running_once: device }) {
  if (!device) return "it runs by another order until it is switched off";
  return `this one boot is ${DEVICES[device][1]}, the next one by this order`;
}

/** @param {Boot} boot */
function whyEnded({ ended_once: device }) {
  return `one boot ${DEVICES[device][1]} ended while nobody saw how: it stays off until started`;
}

/** What there is no room for in the row. @returns {Record<string, string>} */
function factsOf({ machine, boot }) {
  const list = (devices) => devices.map(spelled).join(", ") || "nothing";
  const facts = { UUID: machine.uuid };
  if (!boot) return facts;
  if (boot.once) [facts["Next boot only"]] = DEVICES[boot.once];
  facts.Boots = list(boot.order);
  if (boot.pending) facts.Boots += ` (pending: ${whyPending(boot)})`;
  if (boot.ended_once) facts["Last boot"] = whyEnded(boot);
  facts["Default order"] = list(boot.default);
  return facts;
}

/* Doing a verb: the question before, the progress meanwhile, and what came of it, in the row. */

/**
 * Asks first where a verb has a warning, then does it.
 * @param {Row} row
 */
async function choose(row, name) {
  try {
    // By it, resuming a machine may turn out to be switching it off and on.
    await row.readReason();
  } catch (error) {
    new Entry(row, labelOf(name, row.condition)).finish("failed", error.message);
    return;
  }
  const choices = VERBS[name].warning ? await ask.about(row, name) : {};
  if (choices) await perform(row, name, choices);
}

/** @param {Choices} choices */
async function perform(row, name, choices) {
  const { fields, body, method = "POST", path = `state_controller/${name}` } = VERBS[name];
  const waits = fields?.(row.condition).includes("seconds") ? choices.seconds : 0;
  const entry = new Entry(row, labelOf(name, row.condition));
  const lane = waits ? lanes.waiting : lanes.acting;
  if (lane.full) entry.write("waits for other actions to end");
  try {
    const answer = await lane.run(() => {
      entry.begin(waits, name !== "power_off" || choices.force);
      const seconds = waits + ACTION_SECONDS;
      return request(`${row.url}/${path}`, { method, body: body?.(choices), seconds });
    });
    entry.finish("done", outcome(name, answer));
  } catch (error) {
    entry.finish("failed", inWordsOfThePage(error.message));
    if (!(error instanceof Refusal || error instanceof Silence)) throw error;
  }
  row.update(row.machine, true);
  row.tell("row:acted");
}

/** A refusal that names a parameter of a request also names what the page has for it. */
function inWordsOfThePage(message) {
  const place = ask.form.discard.parentElement.textContent.trim();
  return message.includes("discard_saved") ? `${message} (here: “${place}”)` : message;
}

/** What the controller's answer says, in a few words. */
function outcome(name, answer) {
  if (name === "boot") return answer.changed ? "set" : "was set already";
  const state = answer.reason ? `${answer.state} (${answer.reason})` : answer.state;
  if (name === "power_off" && answer.power === "on") return `asked; it is still ${state}`;
  if (name === "reboot") return `asked; it is ${state}`;
  return answer.changed ? state : `nothing to do, it is ${state}`;
}

/** A line in a row: an action under way, and then its outcome until the next one. */
class Entry {
  constructor(row, label) {
    this.row = row;
    this.label = label;
    this.text = make("span", "line", `${label} …`);
    this.element = make("div", "entry pending", this.text);
    this.removeFinished();
    row.element.querySelector(".answer").append(this.element);
    speak(`${row.name}: ${label}`);
  }

  removeFinished() {
    for (const entry of this.row.element.querySelectorAll(".entry:not(.pending)")) {
      this.row.rescueFocus(entry);
      entry.remove();
    }
  }

  write(words) {
    writeLine(this.text, words ? `${this.label}: ${words}` : `${this.label} …`);
  }

  /**
   * @param {number} seconds that its guest gets to shut down; 0 if it is not asked to
   * @param {boolean} cuts whether its power is cut after that
   */
  begin(seconds, cuts) {
    this.write("");
    if (!seconds) return;
    const end = Date.now() + 1000 * seconds;
    const bar = Object.assign(make("progress", ""), { max: seconds });
    bar.ariaLabel = `${this.label}, time left`;
    const force = Object.assign(make("button", "", "Cut its power now"), { type: "button" });
    force.addEventListener("click", () => this.cut(force, bar));
    // In front of the words, which change: nobody shall hit it who aimed at something else.
    this.element.prepend(force, bar);
    const tick = () => {
      const left = Math.max(0, Math.ceil((end - Date.now()) / 1000));
      const then = cuts ? "power cut in" : "waiting for";
      this.write(left && `${then} ${left} s, its guest is shutting down`);
      if (left) bar.value = left;
      else bar.removeAttribute("value");
    };
    tick();
    this.ticking = setInterval(tick, 250);
  }

  /** Ends the wait of an action that goes on then; so what came of that is told, not of this. */
  async cut(button, bar) {
    clearInterval(this.ticking);
    bar.removeAttribute("value");
    this.row.rescueFocus(button);
    button.disabled = true;
    this.write("its power is being cut");
    speak(`${this.row.name}, ${this.text.textContent}`);
    const path = `${this.row.url}/state_controller/force_off`;
    try {
      await lanes.acting.run(() => request(path, { method: "POST", seconds: ACTION_SECONDS }));
    } catch (error) {
      button.disabled = false;
      this.write(`its power was not cut: ${error.message}`);
      speak(`${this.row.name}, ${this.text.textContent}`);
      if (!(error instanceof Refusal || error instanceof Silence)) throw error;
    }
  }

  /** @param {"done" | "failed"} kind */
  finish(kind, words) {
    clearInterval(this.ticking);
    this.removeFinished();
    this.row.rescueFocus(this.element);
    this.element.className = `entry ${kind}`;
    const said = make("span", "said", make("time", "", clock()), ` ${this.label}: ${words}`);
    // What libvirt says may be long: a click shows the whole of it.
    const told = kind === "failed" ? make("details", "", make("summary", "", said)) : said;
    said.title = said.textContent;
    this.element.replaceChildren(told);
    speak(`${this.row.name}, ${this.label}: ${words}`);
  }
}

/* The menu, one for all rows: it hangs at the button that opened it, and follows its machine. */

const menu = {
  element: byId("menu"),
  /** @type {?HTMLButtonElement} */
  button: null,
  /** @type {?Row} */
  row: null,

  /** @param {number} focused the place of the item that gets the focus; -1 is the last one */
  open(row, button, focused = 0) {
    this.close();
    Object.assign(this, { row, button, names: [] });
    button.ariaExpanded = "true";
    this.element.ariaLabel = `${button.textContent}: ${row.name}`;
    this.element.showPopover();
    this.refresh(row);
    this.items.at(focused).focus();
  },

  close() {
    const { button } = this;
    if (!button) return;
    this.button = this.row = null;
    button.ariaExpanded = "false";
    if (this.element.contains(document.activeElement)) button.focus();
    this.element.hidePopover();
  },

  get items() {
    return [...this.element.children];
  },

  /** Shows the verbs that make sense now, also while it is open. */
  refresh(row) {
    if (this.row !== row) return;
    const names = verbsOf(this.button.dataset.menu, row.condition);
    if (names.join() !== this.names.join()) this.fill(names);
    if (names.length) this.place();
    else this.close();
  },

  fill(names) {
    const focused = document.activeElement.dataset.verb;
    const hadFocus = this.element.contains(document.activeElement);
    this.names = names;
    this.element.replaceChildren(...names.map((name) => this.item(name)));
    const same = this.items.find((item) => item.dataset.verb === focused);
    if (hadFocus) (same ?? this.items[0] ?? this.row.menuButton).focus();
  },

  item(name) {
    const { labels, warning } = VERBS[name];
    const item = make("button", "", labels[this.row.condition] + (warning ? " …" : ""));
    Object.assign(item, { type: "button", role: "menuitem", tabIndex: -1 });
    item.dataset.verb = name;
    return item;
  },

  /** Under its button, or above it where there is no room. */
  place() {
    const at = this.button.getBoundingClientRect();
    const { offsetWidth: width, offsetHeight: height, style } = this.element;
    const fitsBelow = at.bottom + 4 + height <= innerHeight - 8;
    style.top = `${fitsBelow ? at.bottom + 4 : Math.max(8, at.top - height - 4)}px`;
    style.left = `${Math.max(8, Math.min(at.right - width, innerWidth - width - 8))}px`;
  },

  pressed(event) {
    const { items } = this;
    const now = items.indexOf(document.activeElement);
    const places = {
      ArrowDown: (now + 1) % items.length,
      ArrowUp: (now + items.length - 1) % items.length,
      Home: 0,
      End: items.length - 1,
    };
    if (event.key === "Tab") return this.close();
    if (event.key === "Escape") this.close();
    else if (event.key in places) items[places[event.key]].focus();
    else if (/^\p{L}$/u.test(event.key)) this.jump(now, event.key);
    else return;
    event.preventDefault();
  },

  /** To the next item that begins with a letter. */
  jump(now, letter) {
    const { items } = this;
    const begins = (item) => item.textContent.toLowerCase().startsWith(letter.toLowerCase());
    [...items.slice(now + 1), ...items.slice(0, now + 1)].find(begins)?.focus();
  },

  chosen(item) {
    const { row } = this;
    if (!item) return;
    this.close();
    choose(row, item.dataset.verb);
  },

  listen() {
    this.element.addEventListener("keydown", (event) => this.pressed(event));
    this.element.addEventListener("click", ({ target }) => this.chosen(target.closest("button")));
    this.element.addEventListener("focusout", ({ relatedTarget }) => {
      const stays = relatedTarget === this.button || this.element.contains(relatedTarget);
      // Another window may have the focus for a while, and items may be made anew.
      if (relatedTarget && !stays) this.close();
    });
    document.addEventListener("pointerdown", ({ target }) => {
      const inside = this.element.contains(target) || this.button?.contains(target);
      if (!inside) this.close();
    });
    for (const what of ["scroll", "resize"]) {
      addEventListener(what, () => this.button && this.place(), { passive: true });
    }
  },
};

/*
 * Following the machines, and saying so when that is not possible.
 *
 * The event stream tells every change at once. Where there is none to be had (too many windows
 * have one), and to find out what is wrong when it ends, the list of machines is read again and again.
 */

// Milliseconds.
const POLL_EVERY = 2000;
const TRY_STREAM_EVERY = 15000;
const LONGEST_SILENCE = 15000;

// Streams that the windows of one browser may have, of its six connections to one server; and
// milliseconds in which those who have one say so.
const MOST_STREAMS = 3;
const ANSWERS_TAKE = 100;

/**
 * The windows of this browser agree on who has a stream: whoever wants one asks, and counts the
 * answers of those who have one or asked before.
 */
const streams = {
  channel: new BroadcastChannel("streams"),
  /** This window's place in the queue: when it asked. Infinity if it neither has nor wants one. */
  asked: Infinity,
  ahead: 0,

  /** Whether this window may have a stream; if so, until it releases it. */
  async claim() {
    // With a fraction that nobody else has.
    this.asked = Date.now() + Math.random();
    this.ahead = 0;
    this.channel.postMessage({ question: this.asked });
    await pause(ANSWERS_TAKE);
    const granted = this.ahead < MOST_STREAMS;
    if (!granted) this.release();
    return granted;
  },

  /** An answer may come late, from a busy window: then a stream that was granted is one too many. */
  count() {
    this.ahead += 1;
    if (this.ahead >= MOST_STREAMS) document.dispatchEvent(new Event("streams:full"));
  },

  release() {
    this.asked = Infinity;
  },

  listen() {
    this.channel.addEventListener("message", ({ data: { question, answer } }) => {
      if (answer === this.asked) this.count();
      if (question > this.asked) this.channel.postMessage({ answer: question });
    });
  },
};

const WORDS = {
  live: "Live",
  polling: `Polling every ${POLL_EVERY / 1000} s`,
  away: "libvirt is away",
  alone: "No controller",
  refused: "Refused",
};

const follower = {
  polling: false,
  lastSeen: "",

  get away() {
    return !["live", "polling"].includes(document.body.dataset.link);
  },

  async run() {
    for (;;) {
      await untilVisible();
      const streamed = (await streams.claim()) && (await this.stream());
      streams.release();
      const tryAgain = Date.now() + (streamed ? 0 : TRY_STREAM_EVERY);
      this.polling = true;
      // Another attempt at a stream makes sense only where a controller answers.
      while (!(await this.poll()) || Date.now() < tryAgain) {
        await pause(POLL_EVERY);
        await untilVisible();
      }
      this.polling = false;
      await pause(POLL_EVERY / 2);
    }
  },

  /** Listens as long as it works and somebody looks; whether anything was heard. */
  stream() {
    return new Promise((ended) => {
      const source = new EventSource("/events");
      let heard = false;
      let silence = 0;
      const end = () => {
        clearTimeout(silence);
        document.removeEventListener("visibilitychange", leave);
        document.removeEventListener("streams:full", makeRoom);
        source.close();
        ended(heard);
      };
      // As if it had not been granted.
      const makeRoom = () => {
        heard = false;
        end();
      };
      // Streams are few: a page that nobody sees leaves its own to others.
      const leave = () => document.hidden && end();
      // A connection that breaks without a word shows in that nobody answers any more.
      const wait = () => {
        clearTimeout(silence);
        silence = setTimeout(async () => ((await this.poll()) ? wait() : end()), LONGEST_SILENCE);
      };
      const on = (kind, take) => source.addEventListener(kind, ({ data }) => {
        heard = true;
        wait();
        take(JSON.parse(data));
      });
      on("libvirt", (news) => (news.reachable ? this.show("live") : this.libvirtAway(news.detail)));
      on("machines", (list) => this.take(list, "live"));
      on("machine", (machine) => this.changed(() => machines.put(machine, true)));
      on("gone", ({ uuid }) => this.changed(() => machines.forget(uuid)));
      source.addEventListener("error", end);
      document.addEventListener("visibilitychange", leave);
      document.addEventListener("streams:full", makeRoom);
      wait();
    });
  },

  /** Reads the list; whether the controller answered, be it that libvirt is away. */
  async poll() {
    try {
      this.take(await request("/service/machines"), this.polling ? "polling" : "live");
    } catch (error) {
      if (error instanceof Silence) this.show("alone", "The controller does not answer");
      else if (error.passing) this.libvirtAway(error.message);
      else this.show("refused", `The controller refuses: ${error.message}`);
      return error instanceof Refusal;
    }
    return true;
  },

  take(list, how) {
    this.show(how);
    machines.take(list);
  },

  changed(change) {
    this.lastSeen = clock();
    change();
    filter.count();
  },

  libvirtAway(detail) {
    this.show("away", `libvirt is away: ${detail}`);
  },

  /** @param {keyof typeof WORDS} how */
  show(how, why = "") {
    const back = this.away && !why;
    document.body.dataset.link = how;
    write(byId("link").querySelector("span"), WORDS[how]);
    document.title = why ? `${WORDS[how]} · Machines` : "Machines";
    if (!why) this.lastSeen = clock();
    const seen = this.lastSeen && ` What is shown was so at ${this.lastSeen}.`;
    this.warn(why && `${why}.${seen} Trying again.`);
    if (back) machines.retry();
  },

  /** The warning covers the end of the page, which makes room for it. */
  warn(text) {
    const away = byId("away");
    if (away.textContent === text) return;
    away.textContent = text;
    const room = text && `${away.offsetHeight + 16}px`;
    document.documentElement.style.scrollPaddingBottom = room;
    document.querySelector("main").style.paddingBottom = room;
  },
};

const PICTURES_EVERY = 3000; // milliseconds
/** Which item of a menu gets the focus, by the key that opens it. */
const OPENING = { ArrowDown: 0, ArrowUp: -1 };

const list = machines.element;

function clicked(button) {
  const row = machines.of(button);
  if (button.dataset.verb) choose(row, button.dataset.verb);
  else if (button.classList.contains("picture")) screen.open(row);
  else if (menu.button === button) menu.close();
  else if (button.dataset.menu) menu.open(row, button);
}

function listen() {
  list.addEventListener("click", ({ target }) => {
    const button = target.closest("button");
    if (button) clicked(button);
  });
  list.addEventListener("keydown", (event) => {
    const button = event.target.closest("[data-menu]");
    if (!button || !(event.key in OPENING)) return;
    event.preventDefault();
    menu.open(machines.of(button), button, OPENING[event.key]);
  });
  list.addEventListener("row:changed", ({ detail: row }) => {
    for (const part of [menu, ask, screen]) part.refresh(row);
  });
  list.addEventListener("row:picture", ({ detail: row }) => screen.showPicture(row));
  list.addEventListener("row:gone", ({ detail: row }) => {
    if (menu.row === row) menu.close();
    ask.refresh(row);
  });
  list.addEventListener("row:acted", () => follower.polling && follower.poll());
  for (const part of [menu, ask, screen, filter, streams]) part.listen();
}

/** Keeps the pictures of the rows in view fresh, while somebody looks. */
async function keepFresh() {
  for (;;) {
    await untilVisible();
    if (!follower.away) await Promise.all(machines.inView.map((row) => row.freshen()));
    await pause(PICTURES_EVERY);
  }
}

/** Whose machines these are, and what a guest gets to shut down. */
async function introduce() {
  const about = await request("/service").catch(() => null);
  if (!about) {
    // The follower says what is wrong.
    await pause(PICTURES_EVERY);
    return introduce();
  }
  writeLine(byId("where"), about.libvirt);
  ask.seconds = about.grace_seconds;
}

listen();
introduce();
follower.run();
keepFresh();
