// The control connection, as every peer of a broker keeps it: heartbeats, silence, growing waits, ERROR.
import { Dealer } from "zeromq";
import { say, seal, unseal } from "./wire.mjs";

export const HEARTBEAT_MS = 1000;
const SILENT_AFTER = 3, WAIT_MS = 200, WAIT_MS_MAX = 30_000;

/** Calls `greet` when the peer has to introduce itself, `beat` once a second, `hear(name, items)` for each message. */
export class Control {
  constructor(url, { greet, beat, hear, redial = () => {} }) {
    Object.assign(this, { url, greet, beat, hear, redial, errors: new Set() });
    this.dial();
    this.timer = setInterval(() => this.tick(), 50);
  }

  dial() {
    this.socket?.close();
    this.socket = new Dealer({ linger: 0, sendHighWaterMark: 10_000, maxMessageSize: 8 * 2 ** 20 + 65_536 });
    this.socket.connect(this.url);
    this.queue = Promise.resolve();
    this.beatAt = Date.now();
    this.asked = []; // when each heartbeat went out that nothing was heard after
    this.restart();
    this.listen(this.socket);
  }

  /** Greet at once, then after growing waits until `answered` is called. */
  restart() {
    this.waitMs = WAIT_MS;
    this.greetAt = 0;
  }
  answered() {
    this.greetAt = Infinity;
  }

  tick() {
    const now = Date.now();
    if (this.asked.length >= SILENT_AFTER && now - this.asked.at(-SILENT_AFTER) > SILENT_AFTER * HEARTBEAT_MS) {
      this.redial();
      this.dial();
    }
    if (now >= this.greetAt) {
      this.greetAt = now + this.waitMs * (0.5 + Math.random() / 2);
      this.waitMs = Math.min(2 * this.waitMs, WAIT_MS_MAX);
      this.greet();
    }
    if (now - this.beatAt >= HEARTBEAT_MS) {
      this.beatAt = now;
      this.asked.push(now);
      this.beat();
    }
  }

  send(...array) {
    const socket = this.socket, frame = seal(...array);
    this.queue = this.queue.then(() => socket.send(frame)).catch(() => {}); // one that was closed: it is said again
    return this.queue;
  }

  async listen(socket) {
    for await (const [frame] of socket) {
      this.asked = [];
      const [name, ...items] = unseal(frame);
      if (name === "error" && !this.errors.has(items[1])) say({ error: items[1], message: items[2] });
      if (name === "error") this.errors.add(items[1]);
      else if (name === "refused") say({ refused: items[1] });
      else this.hear(name, items);
    }
  }

  async end() {
    clearInterval(this.timer);
    await this.queue;
    this.socket.linger = 1000; // the last word is on its way
    this.socket.close();
  }
}
