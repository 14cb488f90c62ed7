/**
 * The verbs, by the same table as the controller's own (mc/verbs.py): what they are called, where
 * they make sense, and what they do to a running guest.
 *
 * @typedef {"off" | "running" | "paused" | "stalled" | "crashed" | "suspended" | "settling"} Condition
 * @typedef {{seconds?: number, force?: boolean, once?: boolean, device?: string}} Choices
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

/** All states, as the filter shows them; with service.state_words = "power" there are on and off. */
export const STATES = [
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
};
const BY_PAUSE = {
  "I/O error": "stalled",
  crashed: "crashed",
  "shutting down": "settling",
  "starting up": "settling",
};
/** The states of which one wants to know the reason. */
export const WITH_REASON = ["paused", "crashed"];

/** @returns {Condition} */
export function condition(state, reason = "") {
  return (state === "paused" && BY_PAUSE[reason]) || BY_STATE[state] || "running";
}

/** The boot devices that one can choose, as a name and in a sentence. */
export const DEVICES = {
  pxe: ["network", "from the network"],
  disk: ["disk", "from its disk"],
  cdrom: ["CD-ROM", "from its CD-ROM"],
  default: ["default order", "by its default order"],
};

/** What becomes of a guest whose power is cut, or that is reset. */
const LOSS = {
  running: "Its guest is not asked: what it has not written to its disk is lost.",
  paused: "Its guest is paused: what it has in memory is lost.",
  stalled: "Its guest waits after an I/O error: what it has in memory is lost.",
  crashed: "Its guest has crashed: what is left in its memory is lost.",
  suspended: "Its guest sleeps: what it has in memory is lost.",
  settling: "Its guest is shutting down, and does not get to finish.",
};
const ON = /** @type {Condition[]} */ (Object.keys(LOSS));
const ANY = /** @type {Condition[]} */ (["off", ...ON]);
/** Whose guest can be asked to shut down, or is at it already. */
const LISTENING = ["running", "settling"];

const labelled = (label, conditions) => Object.fromEntries(conditions.map((each) => [each, label]));

function powerIsCutAfter(seconds) {
  const time = seconds === 1 ? "1 second" : `${seconds} seconds`;
  return `if it is not off after ${time}, its power is cut, and what it has not written to its `
    + "disk is lost.";
}

function warnOfPowerOff(found, { seconds, force }) {
  const asked = "Its guest is asked to shut down";
  return force ? `${asked}; ${powerIsCutAfter(seconds)}` : `${asked}. If it does not listen, it runs on.`;
}

function warnOfReboot(found) {
  if (found === "paused") return "Its guest is asked to reboot, and does so when it is resumed.";
  return "Its guest is asked to shut down, and boots again. If it does not listen, it runs on.";
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
      ? `Its guest is asked to shut down; ${powerIsCutAfter(seconds)}`
      : `Its power is cut at once. ${LOSS[found]}`;
    return `${before} Then it ${start}`;
  };
}

function warnOfSetting(found, { device, once }) {
  const now = found === "off" ? "It stays off." : "It runs on.";
  const [, source] = DEVICES[device];
  return `${now} ${once ? "The next boot, and only that one, is" : "From now on it boots"} ${source}.`;
}

function warnOfReset(found) {
  const boot = found === "paused" ? "boots when it is resumed" : "boots";
  return `It is reset, and ${boot}, by the order that is set. ${LOSS[found]}`;
}

/** @returns {Verb} */
function bootVerb(label, device) {
  return {
    labels: labelled(label, ANY),
    menu: "boot",
    warning: warnOfBoot(device),
    fields: (found) => (LISTENING.includes(found) ? ["seconds", "once"] : ["once"]),
    body: ({ seconds, once }) => ({ grace: seconds, once }),
  };
}

/** @type {Record<string, Verb>} */
export const VERBS = {
  power_on: {
    labels: { off: "Power on", paused: "Resume", suspended: "Wake up" },
    direct: ["off", "paused", "suspended"],
  },
  power_off: {
    labels: { running: "Power off" },
    direct: ["running"],
    warning: warnOfPowerOff,
    fields: () => ["seconds", "force"],
    body: ({ seconds, force }) => ({ wait: seconds, force }),
  },
  reboot: {
    labels: labelled("Reboot", ["running", "paused"]),
    direct: ["running"],
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
    fields: () => ["device", "once"],
    body: ({ device, once }) => ({ device, once }),
    method: "PUT",
    path: "boot",
  },
};

/** The verbs of a menu that make sense in a condition and have no button of their own there. */
export function verbsOf(menu, found) {
  return Object.keys(VERBS).filter((name) => {
    const { labels, direct = [], menu: place = "more" } = VERBS[name];
    return place === menu && found in labels && !direct.includes(found);
  });
}
