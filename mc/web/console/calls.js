/** Talking to the controller. */

// An action answers when it is done; the controller's own deadlines are shorter.
export const ACTION_SECONDS = 150;
const READ_SECONDS = 10;

/** The controller answered with an error, in RFC 9457 JSON. */
export class Refusal extends Error {
  constructor(status, { detail = `status ${status}`, outcome }) {
    super(outcome === "unknown" ? `${detail}. What came of it is not known` : detail);
    this.status = status;
  }
}

/** The controller did not answer at all. */
export class Silence extends Error {}

/**
 * One request, and its answer as JSON or as a blob. Throws Refusal or Silence.
 * @param {string} path
 * @param {{method?: string, body?: object, seconds?: number, as?: "json" | "blob"}} [options]
 */
export async function request(path, options = {}) {
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
    throw new Silence("the controller did not answer", { cause: error });
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
export const lanes = { reading: new Lane(2), waiting: new Lane(2), acting: new Lane(2) };
