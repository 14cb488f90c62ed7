/**
 * The console page: every machine, its screen, and what it boots next.
 *
 * It uses the public URLs only, so it is also an example of a client. Machines come from the
 * follower into the list; a row reads the rest while it is in view; verbs are done by `choose`.
 * Of hosts nothing is shown where there is one only.
 */

/* Small things that every part of the page does with elements, words and time. */

const byId = (id) => document.getElementById(id);

/** @param {number} time in milliseconds */
const pause = (time) => new Promise((done) => setTimeout(done, time));

const clock = () => new Date().toLocaleTimeString();

/** A time as one tells it: with the date where that is not today's. */
function moment(time) {
  const today = time.toDateString() === new Date().toDateString();
  return today ? time.toLocaleTimeString() : time.toLocaleString();
}

/** `1 host`, `2 hosts`. */
const counted = (number, thing) => `${number} ${thing}${number === 1 ? "" : "s"}`;

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
  constructor(status, { detail = `status ${status}`, outcome, hosts: missing = [] }) {
    super(outcome === "unknown" ? `${detail}. What came of it is not known` : detail);
    this.status = status;
    /** The hosts that were not heard of, where it is about several. @type {string[]} */
    this.missing = missing;
  }

  /** Whether it says nothing about the machine: libvirt is away, busy or slow. */
  get passing() {
    return [503, 504].includes(this.status);
  }
}

/** The controller did not answer at all. */
class Silence extends Error {}

const inJson = (response) => response.json();
const asBlob = (response) => response.blob();

/**
 * One request, and its answer, as JSON unless it is to be read otherwise. Throws Refusal or Silence.
 * @param {string} path
 * @param {{method?: string, body?: object, seconds?: number,
 *   read?: (response: Response) => Promise<any>}} [options]
 */
async function request(path, options = {}) {
  const { method = "GET", body, seconds = READ_SECONDS, read = inJson } = options;
  try {
    const response = await fetch(path, {
      method,
      headers: { Accept: "application/json", ...(body && { "Content-Type": "application/json" }) },
      body: body && JSON.stringify(body),
      signal: AbortSignal.timeout(1000 * seconds),
    });
    if (response.ok) return await read(response);
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
  return `if it is not off after ${counted(seconds, "second")}, its power is cut, and what it has not written to its `
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
 * @typedef {{host: string, id: ?number, name: string, uuid: string, state: string,
 *   power: "on" | "off"}} Machine
 * @typedef {{order: string[], pending: boolean, once: ?string, running_once: ?string,
 *   ended_once: ?string, default: string[]}} Boot
 */

// Milliseconds after which details are read again though nobody has said that they changed, and
// after which a machine without a picture is asked for one again.
const DETAILS_LAST = 10000;
const REFUSAL_LASTS = 15000;

/** What tells a machine from all others: two hosts may have one of the same UUID. */
const keyOf = ({ host, uuid }) => `${host}/${uuid}`;

class Row {
  /** @param {Machine} machine */
  constructor(machine) {
    this.element = byId("row").content.firstElementChild.cloneNode(true);
    this.element.dataset.key = keyOf(machine);
    this.picture = this.element.querySelector("img");
    this.hint = this.element.querySelector(".hint");
    this.order = this.element.querySelector(".order");
    this.menuButton = this.element.querySelector("[data-menu=boot]");
    this.inView = false;
    this.gone = false;
    /** Whether its host is away: nothing is known of it until that is back. */
    this.away = false;
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

  /** Its name, and where there are several hosts also which one it is on. */
  get fullName() {
    return hosts.many ? `${this.name} on ${this.machine.host}` : this.name;
  }

  get url() {
    const { host, uuid } = this.machine;
    return `${hosts.many ? `/hosts/${host}` : ""}/service/${uuid}`;
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
    return !this.away && (this.inView || this.enlarged);
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
    const { host, state, power } = this.machine;
    write(this.element.querySelector("h2"), this.name);
    /** What the filter looks for text in. */
    this.words = folded([this.machine.name, this.name, hosts.many ? host : ""].join("\n"));
    writeLine(this.element.querySelector(".host"), hosts.many ? host : "");
    showState(this.element.querySelector(".state"), state, this.reason);
    this.element.querySelector(".verbs").ariaLabel = this.fullName;
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
    // That its host is away is said already.
    if (!this.watched && !this.away) this.dropPicture(this.machine.power === "off" ? "off" : "");
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
      const blob = await request(`${this.url}/screenshot`, { read: asBlob });
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
    this.element.querySelector(".picture").ariaLabel = `Screen of ${this.fullName}${hint}`;
  }

  /**
   * Keeps what was done here and what came of it, out of sight.
   * @param {boolean} away
   */
  setAway(away) {
    if (this.away === away) return;
    this.away = away;
    if (away) {
      this.dropPicture("", `${this.machine.host} is away`);
      this.tell("row:gone");
    } else {
      this.retry();
    }
    this.tell("row:changed");
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
// before it does so for the first time; and those that are added to the page at once then, since the
// browser looks at all rows each time.
const SLICE = 8;
const FIRST_ROWS = 12;
const MORE_ROWS = 250;

const { compare } = new Intl.Collator(undefined, { numeric: true });

/** By name, those of one name by host. */
const inOrder = (one, other) => compare(one.name, other.name) || compare(one.host, other.host);

const machines = {
  element: byId("machines"),
  /** By key. @type {Map<string, Row>} */
  rows: new Map(),
  /** As they are in the list. @type {Row[]} */
  ordered: [],
  /**
   * What is still to be taken from the last lists, by key.
   * @type {Map<string, Machine>}
   */
  coming: new Map(),
  /** How many are ordered but not in the page yet. */
  unseen: 0,

  /**
   * Takes the whole list of a host, a few rows at a time, so that thousands do not hold up the page.
   * @param {string} host
   * @param {Machine[]} list
   */
  take(host, list) {
    const present = new Set(list.map(keyOf));
    for (const key of this.keysOf(host)) if (!present.has(key)) this.forget(key);
    for (const machine of list.sort(inOrder)) this.coming.set(keyOf(machine), machine);
    if (!this.taking) this.takeComing();
  },

  async takeComing() {
    this.taking = true;
    if (hosts.many) await hosts.untilHeard();
    // By then there may be many lists, each in order.
    this.coming = new Map([...this.coming].sort(([, one], [, other]) => inOrder(one, other)));
    for (let number = 0; number < FIRST_ROWS; number += 1) this.takeNext();
    this.attach();
    while (this.coming.size) {
      filter.count();
      await pause(0);
      for (const end = performance.now() + SLICE; performance.now() < end;) this.takeNext();
      if (this.unseen >= MORE_ROWS || !this.coming.size) this.attach();
    }
    this.taking = false;
    filter.count();
  },

  takeNext() {
    const [next] = this.coming.values();
    if (next) this.place(next);
  },

  /** Takes one machine, known or new. */
  put(machine, news = false) {
    this.place(machine, news);
    if (this.unseen && !this.taking) this.attach();
  },

  /** The same, but a new one has its place only: it is in the page after `attach`. */
  place(machine, news = false) {
    const key = keyOf(machine);
    this.coming.delete(key);
    const known = this.rows.get(key);
    const row = known ?? new Row(machine);
    const named = known?.machine.name;
    known?.setAway(false);
    if (known) known.update(machine, news);
    else this.rows.set(key, row);
    if (known && named !== machine.name) this.ordered.splice(this.ordered.indexOf(row), 1);
    if (named !== machine.name) this.insert(row);
    // Somebody at work in a row is not to lose it to the filter by that.
    row.element.hidden = !filter.admits(row) && (row.element.hidden || !row.inUse);
  },

  /** Puts a row where its name belongs. */
  insert(row) {
    const focused = document.activeElement;
    const number = this.numberBefore(row.machine);
    this.ordered.splice(number, 0, row);
    if (!row.element.isConnected) {
      this.unseen += 1;
      return;
    }
    this.append(row, this.ordered.slice(0, number).findLast(({ element }) => element.isConnected));
    if (row.element.contains(focused)) focused.focus({ preventScroll: true });
  },

  /** @param {?Row} before the row after which it is to be; it is the first one if there is none */
  append({ element }, before) {
    if (before) before.element.after(element);
    else this.element.prepend(element);
  },

  /** Puts the new rows into the page. */
  attach() {
    let before = null;
    for (const row of this.unseen ? this.ordered : []) {
      if (!row.element.isConnected) {
        this.append(row, before);
        view.observe(row.element);
      }
      before = row;
    }
    this.unseen = 0;
  },

  /** How many rows come before a machine. */
  numberBefore(machine) {
    let [from, to] = [0, this.ordered.length];
    while (from < to) {
      const middle = (from + to) >> 1;
      if (inOrder(this.ordered[middle].machine, machine) > 0) to = middle;
      else from = middle + 1;
    }
    return from;
  },

  forget(key) {
    this.coming.delete(key);
    const row = this.rows.get(key);
    if (!row) return;
    const { element } = row;
    const next = element.nextElementSibling ?? element.previousElementSibling;
    row.gone = true;
    row.tell("row:gone");
    const hadFocus = element.contains(document.activeElement);
    view.unobserve(element);
    row.close();
    this.rows.delete(key);
    this.ordered.splice(this.ordered.indexOf(row), 1);
    if (hadFocus) (next && this.of(next) ? this.of(next).menuButton : filter.name).focus();
  },

  /** Shows nothing of the machines of a host until `take` or `put` tell of them again. */
  hide(host) {
    const keys = this.keysOf(host);
    for (const key of keys) this.coming.delete(key);
    const lost = keys.map((key) => this.rows.get(key)).filter((row) => row && !row.away);
    for (const row of lost) row.setAway(true);
    const focused = this.of(document.activeElement);
    for (const row of lost) row.element.hidden = true;
    if (focused?.away) {
      const below = this.ordered.slice(this.ordered.indexOf(focused));
      const next = below.find(({ element }) => !element.hidden);
      (next?.menuButton ?? filter.name).focus();
    }
  },

  /** Of the machines of a host; of some twice. */
  keysOf(host) {
    const start = `${host}/`;
    return [...this.rows.keys(), ...this.coming.keys()].filter((key) => key.startsWith(start));
  },

  retry() {
    for (const row of this.rows.values()) row.retry();
  },

  /** The row that an element belongs to. */
  of(element) {
    return this.rows.get(element.closest(".row")?.dataset.key);
  },

  /** All of them by what is known now, also those that have no row yet. @returns {Machine[]} */
  get all() {
    const known = this.ordered.filter(({ away }) => !away).map(({ machine }) => machine);
    if (!this.coming.size) return known;
    return [...known.filter((each) => !this.coming.has(keyOf(each))), ...this.coming.values()];
  },

  get inView() {
    return this.ordered.filter((row) => row.inView);
  },
};

const view = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) machines.of(target)?.setInView(isIntersecting);
}, { rootMargin: "100px" });

const filter = {
  form: byId("filter"),
  name: byId("filter-name"),
  host: byId("filter-host"),
  /** By state; the empty one stands for all. @type {Map<string, HTMLInputElement>} */
  choices: new Map(),

  get wanted() {
    const { state } = this.form.elements;
    return { text: folded(this.name.value.trim()), state: state.value, host: this.host.value };
  },

  /** @param {Row} row */
  admits({ machine, words, away }, { text, state, host } = this.wanted) {
    const fits = (!state || state === machine.state) && (!host || host === machine.host);
    return fits && !away && words.includes(text);
  },

  apply() {
    const { wanted } = this;
    for (const row of machines.ordered) {
      const hidden = !this.admits(row, wanted);
      if (row.element.hidden !== hidden) row.element.hidden = hidden;
    }
    this.count();
  },

  /** Offers the hosts, where there is a choice. @param {string[]} names */
  offerHosts(names) {
    const many = names.length > 1;
    const chosen = this.host.value;
    this.host.replaceChildren(...["", ...names].map((name) => new Option(name, name)));
    this.host.value = names.includes(chosen) ? chosen : "";
    for (const part of [this.host, this.host.labels[0]]) part.hidden = !many;
    const words = many ? "Name or host" : "Name";
    write(this.name.labels[0], words);
    this.name.placeholder = `Filter by ${words.toLowerCase()}`;
    this.apply();
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
    const byHost = {};
    for (const { state, host } of all) {
      numbers[state] = (numbers[state] ?? 0) + 1;
      byHost[host] = (byHost[host] ?? 0) + 1;
    }
    for (const [state, input] of this.choices) {
      const label = input.parentElement;
      write(label.querySelector("b"), `${numbers[state] ?? 0}`);
      label.hidden = !(numbers[state] || input.checked || !state);
    }
    for (const option of hosts.many ? this.host.options : []) {
      const { value: name } = option;
      const told = hosts.known.get(name)?.word || byHost[name] || 0;
      write(option, name ? `${name} (${told})` : `All ${hosts.known.size} hosts`);
    }
    const out = machines.ordered.filter(({ element, away }) => element.hidden && !away);
    const shown = all.length - out.length;
    write(byId("count"), shown === all.length ? "" : `${shown} of ${all.length} shown`);
    byId("nothing").hidden = shown > 0 || !hosts.heard.length;
    write(byId("nothing"), this.whyNothing(all));
  },

  /** @param {Machine[]} all */
  whyNothing(all) {
    const word = hosts.many && hosts.known.get(this.host.value)?.word;
    if (word) return `${this.host.value} is ${word}.`;
    if (all.length) return "No machine fits the filter.";
    const silent = hosts.many && hosts.all.some((host) => host.word);
    return silent ? "No host that answers has machines." : "There are no machines.";
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

/*
 * The hosts: the libvirts whose machines these are. Where there is one only, it is not spoken of, and
 * that it is away is said of libvirt.
 */

/** Milliseconds that the first rows wait for all hosts, so that later ones need not push them down. */
const HOSTS_TAKE = 1000;

/**
 * @typedef {{name: string, state: "up" | "connecting" | "down", since: string, detail?: string}} Told
 *   what the controller tells of a host
 */
class Host {
  /** @param {Told} told */
  constructor(told) {
    this.told = told;
    /** Whether its machines are known; null if it has not been heard of yet. @type {?boolean} */
    this.known = null;
  }

  /** In a word, how it is if its machines are not known. */
  get word() {
    if (this.known === false) return "away";
    return this.known ? "" : "connecting";
  }

  /** @param {string} why its machines are not known, unless the host itself is down and says so */
  lose(why) {
    this.known = false;
    const { state, since, detail } = this.told;
    const down = state === "down";
    // A host that is thought to be up but does not answer has no time of its own.
    this.silent = down ? null : this.silent ?? new Date();
    this.since = down ? new Date(since) : this.silent;
    this.why = down && detail ? detail : why;
  }

  find() {
    this.known = true;
    this.silent = null;
  }
}

const hosts = {
  element: byId("hosts-away"),
  /** By name. @type {Map<string, Host>} */
  known: new Map(),
  many: false,
  /** Until when the first rows wait. */
  patience: 0,

  get all() {
    return [...this.known.values()];
  },

  get away() {
    return this.all.filter((host) => host.known === false);
  },

  get heard() {
    return this.all.filter((host) => host.known !== null);
  },

  /** Takes the list of hosts; another start of the controller may have others. @param {Told[]} list */
  take(list) {
    const before = [...this.known.keys()];
    const old = this.known;
    this.known = new Map(list.map((told) => [told.name, old.get(told.name) ?? new Host(told)]));
    for (const told of list) this.known.get(told.name).told = told;
    const names = [...this.known.keys()];
    if (names.join() === before.join()) return;
    this.many = names.length > 1;
    this.patience = performance.now() + HOSTS_TAKE;
    for (const name of before) if (!this.known.has(name)) machines.take(name, []);
    for (const row of machines.ordered) row.show();
    filter.offerHosts(names);
    if (this.many) writeLine(byId("where"), counted(names.length, "host"));
    this.show();
  },

  /** @param {Told} told */
  tell(told) {
    const host = this.known.get(told.name);
    if (host) host.told = told;
  },

  /** @param {string} name */
  find(name) {
    this.known.get(name)?.find();
    this.show();
  },

  /** @param {string} name */
  lose(name, why) {
    this.known.get(name)?.lose(why);
    machines.hide(name);
    this.show();
  },

  /** Waits until every host has been heard of, but not long. */
  async untilHeard() {
    while (this.heard.length < this.known.size && performance.now() < this.patience) {
      await pause(HOSTS_TAKE / 20);
    }
  },

  /** Says which hosts are away, soon: many may change at a time. */
  show() {
    if (this.showing) return;
    this.showing = requestAnimationFrame(() => {
      this.showing = 0;
      this.showAway(this.many ? this.away : []);
      follower.showLink();
      filter.count();
    });
  },

  /** @param {Host[]} away */
  showAway(away) {
    const lines = away.map(({ told, since, why }) => [told.name, since, moment(since), why]);
    const shown = JSON.stringify(lines);
    if (shown === this.shown) return;
    this.shown = shown;
    this.element.hidden = !away.length;
    const are = away.length === 1 ? "host is away. Its" : "hosts are away. Their";
    write(this.element.querySelector("summary"), `${away.length} ${are} machines are not shown.`);
    this.element.querySelector("ul").replaceChildren(...lines.map(([name, since, told, why]) => {
      const time = Object.assign(make("time", "", told), { dateTime: since.toISOString() });
      return make("li", "", make("b", "", name), " since ", time, `: ${why}`);
    }));
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
    write(byId("ask-title"), `${label}: ${row.fullName}`);
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
    const known = !row.gone && !row.away;
    const fits = known && row.condition in labels;
    const lost = row.gone ? "It is gone now" : `Its host, ${row.machine.host}, is away now`;
    const now = known ? `It is ${row.machine.state} now` : lost;
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
    write(byId("screen-title"), row.fullName);
    this.image.alt = `Screen of ${row.fullName}`;
    const state = this.element.querySelector(".state");
    state.hidden = row.away;
    showState(state, row.machine.state, row.reason);
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
  const facts = { ...(hosts.many && { Host: machine.host }), UUID: machine.uuid };
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
    speak(`${row.fullName}: ${label}`);
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
    speak(`${this.row.fullName}, ${this.text.textContent}`);
    const path = `${this.row.url}/state_controller/force_off`;
    try {
      await lanes.acting.run(() => request(path, { method: "POST", seconds: ACTION_SECONDS }));
    } catch (error) {
      button.disabled = false;
      this.write(`its power was not cut: ${error.message}`);
      speak(`${this.row.fullName}, ${this.text.textContent}`);
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
    speak(`${this.row.fullName}, ${this.label}: ${words}`);
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
    this.element.ariaLabel = `${button.textContent}: ${row.fullName}`;
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
  connecting: "Connecting",
  live: "Live",
  polling: `Polling every ${POLL_EVERY / 1000} s`,
  away: "libvirt is away",
  alone: "No controller",
  refused: "Refused",
};

/** The list of machines, and the names of the hosts that it lacks. */
async function readList(response) {
  const incomplete = response.headers.get("Incomplete");
  return { list: await response.json(), missing: incomplete ? incomplete.split(", ") : [] };
}

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
  async stream() {
    try {
      hosts.take(await request("/hosts"));
    } catch (error) {
      if (error instanceof Refusal || error instanceof Silence) return false;
      throw error;
    }
    return this.hear();
  },

  hear() {
    return new Promise((ended) => {
      const source = new EventSource("/events");
      let heard = false;
      let silence = 0;
      // Whose machines come next: a list may be empty.
      let teller = "";
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
      on("host", (told) => {
        teller = told.name;
        hosts.tell(told);
      });
      on("libvirt", ({ host, reachable, detail }) => this.reached(host, reachable, detail));
      on("machines", (list) => this.take(teller, list, "live"));
      on("machine", (machine) => this.changed(() => machines.put(machine, true)));
      on("gone", (machine) => this.changed(() => machines.forget(keyOf(machine))));
      source.addEventListener("error", end);
      document.addEventListener("visibilitychange", leave);
      document.addEventListener("streams:full", makeRoom);
      wait();
    });
  },

  /** Reads the list; whether the controller answered, be it that libvirt is away. */
  async poll() {
    const how = this.polling ? "polling" : "live";
    try {
      hosts.take(await request("/hosts"));
      this.takeAll(await request("/service/machines", { read: readList }), how);
    } catch (error) {
      if (error instanceof Silence) this.show("alone", "The controller does not answer");
      else if (error.missing?.length) this.takeAll({ list: [], missing: error.missing }, how);
      else if (error.passing) this.libvirtAway(error.message);
      else this.show("refused", `The controller refuses: ${error.message}`);
      return error instanceof Refusal;
    }
    return true;
  },

  /** @param {string} host whose machines these are */
  take(host, list, how) {
    this.show(how);
    hosts.find(host);
    machines.take(host, list);
  },

  /** Takes the machines of all hosts but those that were not heard of. */
  takeAll({ list, missing }, how) {
    this.show(how);
    const lists = Map.groupBy(list, ({ host }) => host);
    for (const name of hosts.known.keys()) {
      if (missing.includes(name)) hosts.lose(name, "it did not answer in time");
      else this.take(name, lists.get(name) ?? [], how);
    }
  },

  /** Takes what is said of the way to a host. */
  reached(host, reachable, detail) {
    if (reachable) this.show("live");
    else if (!hosts.many) this.libvirtAway(detail);
    else {
      this.show("live");
      hosts.lose(host, detail);
    }
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
    this.showLink();
    document.title = why ? `${WORDS[how]} · Machines` : "Machines";
    if (!why) this.lastSeen = clock();
    const seen = this.lastSeen && ` What is shown was so at ${this.lastSeen}.`;
    this.warn(why && `${why}.${seen} Trying again.`);
    if (back) machines.retry();
  },

  showLink() {
    const link = byId("link");
    const how = document.body.dataset.link;
    const lost = hosts.many && !this.away ? hosts.away.length : 0;
    link.classList.toggle("partly", lost > 0);
    const words = lost ? `${WORDS[how]}, ${counted(lost, "host")} away` : WORDS[how];
    write(link.querySelector("span"), words);
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
  // Of several, which they are is seen in the list.
  if (about.libvirt) writeLine(byId("where"), about.libvirt);
  ask.seconds = about.grace_seconds;
}

listen();
introduce();
follower.run();
keepFresh();
