// A list of any length, of which only the rows in sight are fetched, by position, in windows.
//
//     positions   0 ........ 100 ........ 200 ........ 300 ........ 400
//     windows     [ current  ] [  stale   ] [ unknown  ] [ current  ]
//                                                 └ in sight: "…", and asked for
//
// A window is stale once the archive has changed. Its rows stay on the screen until the new ones are here.

import { WINDOW_ROWS } from "./first.js";

const WINDOWS_MAX = 40;
/** Rows above and below those in sight that are fetched with them. */
const AROUND = 10;
/** Requests at once: with more, those for rows that have been scrolled past would delay the ones in sight. */
const PARALLEL = 2;
/** Counting the matches of a filter costs the server more than its rows: it begins when nobody types, and not with every arrival. */
const COUNT_PAUSE_MS = 400;
const COUNT_EVERY_MS = 15_000;
/** After a failure. The server may be restarting. */
const RETRY_MS = 4000;

/**
 * Rows by position. `ask({position, limit, after}, signal)` gives {rows, next}: `next` continues behind these rows, null: there
 * are no more. `count(signal)` gives {studies, instances, bytes, is_exact} of all rows. `keyOf(row)` identifies a row.
 * `isCheap`: counting costs nothing.
 */
export class Windows {
  constructor(ask, count, keyOf, changed, isCheap) {
    this.ask = ask;
    this.askCount = count;
    this.keyOf = keyOf;
    this.isCheap = isCheap;
    this.changed = changed;
    this.total = 0;
    this.isExact = true;
    /** Whether `total` is more than a lower bound from the rows that were read. */
    this.isCounted = false;
    /** What `count` gave; null: nothing yet. */
    this.totals = null;
    this.countedAt = 0;
    this.countTimer = 0;
    this.error = null;
    /** Nothing has been answered yet. */
    this.isLoading = true;
    /** Where the list was scrolled to when it was left: see `Grid`. */
    this.place = null;
    /** How far the rows in sight have moved since the list looked: see `takeShift`. */
    this.shift = 0;
    this.parts = new Map();
    this.generation = 0;
    this.sight = { first: 0, last: 0 };
    this.loading = new Set();
    this.failed = new Set();
    this.isRefreshing = false;
    this.isChangedAgain = false;
    this.timer = 0;
    this.abort = new AbortController();
  }

  /** The row at a position; undefined: it is not here yet. */
  row(position) {
    return this.parts.get(Math.floor(position / WINDOW_ROWS))?.rows[position % WINDOW_ROWS];
  }

  /** Where a row is now, as far as that is known; while its window is fetched again, where it was. */
  positionOf(key) {
    let stale;
    for (const [number, { rows, generation }] of this.parts) {
      const place = rows.findIndex((row) => this.keyOf(row) === key);
      if (place < 0) continue;
      if (generation === this.generation) return number * WINDOW_ROWS + place;
      stale ??= number * WINDOW_ROWS + place;
    }
    return stale;
  }

  /** Says which rows are in sight: what is missing or stale of them is fetched. */
  look(first, last) {
    this.sight = { first, last };
    this.fetchMissing();
  }

  /** Rows arrived or went: fetches the windows in sight again and replaces them together. */
  async refresh() {
    if (this.isRefreshing) {
      this.isChangedAgain = true;
      return;
    }
    this.isRefreshing = true;
    clearTimeout(this.timer);
    this.timer = 0;
    this.failed.clear();
    const generation = (this.generation += 1);
    const { abort } = this;
    const old = this.parts;
    try {
      const numbers = [...new Set([0, ...this.numbersInSight()])];
      const answers = new Map(await Promise.all(numbers.map(async (number) => [number, await this.read(number)])));
      const shift = await this.shiftOf(old, answers);
      for (const [number, answer] of answers) this.take(number, answer, generation);
      this.shift += shift;
      this.error = null;
    } catch (error) {
      this.fail(error);
    }
    if (abort !== this.abort) return;
    this.isRefreshing = false;
    this.isLoading = false;
    this.tell();
    if (this.isChangedAgain) {
      this.isChangedAgain = false;
      this.refresh();
      return;
    }
    this.fetchMissing();
    if (!this.error) this.countSoon();
  }

  countSoon() {
    const pauseMs = this.isCheap ? 0 : Math.max(COUNT_PAUSE_MS, this.countedAt + COUNT_EVERY_MS - Date.now());
    this.countTimer ||= setTimeout(() => this.count(), pauseMs);
  }

  /** Counts all rows. That may take longer than the rows in sight, which do not wait for it. */
  async count() {
    try {
      const totals = await this.askCount(this.abort.signal);
      [this.totals, this.countedAt, this.countTimer] = [totals, Date.now(), 0];
      const first = this.parts.get(0);
      // A list that is here as a whole is its own count.
      if (first && !first.isLast) {
        const isBehind = totals.studies <= first.rows.length;
        [this.total, this.isExact, this.isCounted] = [isBehind ? first.rows.length + 1 : totals.studies, totals.is_exact && !isBehind, true];
      }
    } catch (error) {
      if (error.name === "AbortError") return;
      this.countTimer = 0;
      this.fail(error);
    }
    this.tell();
  }

  /** By how many rows what is in sight has moved, once; the list scrolls as far, and nothing seems to move. */
  takeShift() {
    const { shift } = this;
    this.shift = 0;
    return shift;
  }

  /** Ends all requests; nothing changes any more. */
  close() {
    clearTimeout(this.timer);
    clearTimeout(this.countTimer);
    this.abort.abort();
  }

  /** Goes on with the rows that were there when it was closed. */
  reopen(ask, count, changed) {
    [this.ask, this.askCount, this.changed] = [ask, count, changed];
    [this.countTimer, this.countedAt] = [0, 0];
    this.abort = new AbortController();
    this.failed.clear();
    this.loading.clear();
    [this.timer, this.isRefreshing, this.isChangedAgain] = [0, false, false];
    return this;
  }

  numbersInSight() {
    const end = Math.max(this.sight.last, Math.min(this.total - 1, this.sight.last + AROUND));
    const first = Math.floor(Math.max(0, this.sight.first - AROUND) / WINDOW_ROWS);
    const last = Math.floor(end / WINDOW_ROWS);
    return Array.from({ length: last - first + 1 }, (_, place) => first + place);
  }

  fetchMissing() {
    if (this.isRefreshing) return;
    for (const number of this.numbersInSight()) {
      if (this.loading.size >= PARALLEL) return;
      const isCurrent = this.parts.get(number)?.generation === this.generation;
      if (!isCurrent && !this.loading.has(number) && !this.failed.has(number)) this.load(number);
    }
  }

  async load(number) {
    const { generation, abort } = this;
    this.loading.add(number);
    try {
      this.take(number, await this.read(number), generation);
      this.error = null;
    } catch (error) {
      if (abort === this.abort) this.failed.add(number);
      this.fail(error);
    }
    if (abort !== this.abort) return;
    this.loading.delete(number);
    this.isLoading = false;
    this.tell();
    this.fetchMissing();
  }

  /** Reads a window. The server may answer with fewer rows, when a search is slow: it is asked on. */
  async read(number) {
    const position = number * WINDOW_ROWS;
    const answer = await this.ask({ position, limit: WINDOW_ROWS }, this.abort.signal);
    while (answer.rows.length < WINDOW_ROWS && answer.next !== null) {
      const more = await this.ask({ after: answer.next, limit: WINDOW_ROWS - answer.rows.length }, this.abort.signal);
      answer.rows.push(...more.rows);
      answer.next = more.next;
    }
    return answer;
  }

  take(number, { rows, next }, generation) {
    const start = number * WINDOW_ROWS;
    const end = start + rows.length;
    const isLast = next === null && (rows.length > 0 || start === 0);
    if (next !== null) {
      if (this.total <= end) [this.total, this.isExact] = [end + 1, false];
    } else if (isLast) [this.total, this.isExact, this.isCounted] = [end, true, true];
    else this.total = Math.min(this.total, start);
    this.parts.delete(number);
    this.parts.set(number, { rows, generation, isLast });
    const inSight = this.numbersInSight();
    for (const one of this.parts.keys()) {
      if (this.parts.size <= WINDOWS_MAX) break;
      if (!inSight.includes(one)) this.parts.delete(one);
    }
  }

  /** Where the first row in sight that still exists is now, compared with where it was. */
  async shiftOf(old, answers) {
    const { first, last } = this.sight;
    if (first === 0 || !old.has(Math.floor(first / WINDOW_ROWS))) return 0;
    const search = () => {
      const places = new Map();
      for (const [number, { rows }] of answers) rows.forEach((row, place) => places.set(this.keyOf(row), number * WINDOW_ROWS + place));
      for (let position = first; position <= last; position += 1) {
        const row = old.get(Math.floor(position / WINDOW_ROWS))?.rows[position % WINDOW_ROWS];
        const place = row && places.get(this.keyOf(row));
        if (place !== undefined) return place - position;
      }
      return undefined;
    };
    const shift = search();
    if (shift !== undefined) return shift;
    for (const number of [Math.floor(last / WINDOW_ROWS) + 1, Math.floor(first / WINDOW_ROWS) - 1]) {
      if (number > 0 && !answers.has(number)) answers.set(number, await this.read(number));
    }
    return search() ?? 0;
  }

  fail(error) {
    if (error.name === "AbortError") return;
    this.error = error;
    // A request that was refused would be refused again.
    if (error.status >= 400 && error.status < 500) return;
    this.timer ||= setTimeout(() => this.refresh(), RETRY_MS);
  }

  tell() {
    if (!this.abort.signal.aborted) this.changed();
  }
}
