// Asks a store, as QUERY.md says: one question after the other, the answer a page.
import { randomBytes } from "node:crypto";
import { Dealer } from "zeromq";
import { pack, unpack } from "./wire.mjs";

export class Query {
  constructor(url) {
    this.socket = new Dealer({ linger: 0, receiveTimeout: 10_000, maxMessageSize: 9 * 2 ** 20 + 65_536 });
    this.socket.connect(url);
    this.turn = Promise.resolve();
  }

  ask(...question) {
    const answer = this.turn.then(() => this.exchange(question));
    this.turn = answer.catch(() => {});
    return answer;
  }

  async exchange(question) {
    const number = randomBytes(8);
    await this.socket.send([number, pack(question)]);
    for (;;) {
      const [echo, word, answer] = await this.socket.receive();
      if (!echo.equals(number)) continue;
      if (String(word) !== "ok") throw new Error(`${word}: ${answer}`);
      const [rows, more, last] = unpack(answer);
      return { rows, more, last };
    }
  }

  /** All rows of a question that is asked again behind each page; `question(row, last)` makes it, at first of nothing. */
  async *pages(question) {
    let page, row = null;
    do {
      page = await this.ask(...question(row, page?.last));
      yield* page.rows;
      row = page.rows.at(-1);
    } while (page.more);
  }

  close() {
    this.socket.close();
  }
}
