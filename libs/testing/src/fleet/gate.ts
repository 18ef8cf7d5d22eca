/**
 * A connection that can go half-open: from one moment on nothing passes, and
 * neither end hears of it, as where a NAT has forgotten it. node:http2 takes a
 * socket's handle for itself, so what is to stand between is a stream before it.
 */
import type { Socket } from "node:net";
import { Duplex } from "node:stream";

export class Gate extends Duplex {
  readonly #socket: Socket;
  /** Where it is kept open after this end has given it up. */
  readonly #kept: Set<Socket>;
  #shut = false;

  constructor(socket: Socket, kept: Set<Socket>) {
    super();
    this.#socket = socket;
    this.#kept = kept;
    socket.on("data", (chunk: Buffer) => {
      if (!this.#shut && !this.push(chunk)) socket.pause();
    });
    socket.once("end", () => this.#shut || this.push(null));
    socket.once("error", (error) => this.#shut || this.destroy(error));
    socket.once("close", () => {
      kept.delete(socket);
      if (!this.#shut) this.destroy();
    });
  }

  /** Nothing passes any more. */
  shut(): void {
    this.#shut = true;
    this.#kept.add(this.#socket);
    this.#socket.pause();
  }

  override _read(): void {
    if (!this.#shut) this.#socket.resume();
  }

  override _write(chunk: Buffer, _: BufferEncoding, done: (error?: Error | null) => void): void {
    if (this.#shut) done();
    else this.#socket.write(chunk, done);
  }

  override _final(done: (error?: Error | null) => void): void {
    if (this.#shut) done();
    else this.#socket.end(() => done());
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    if (!this.#shut) this.#socket.destroy();
    done(error);
  }
}
