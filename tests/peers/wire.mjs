// The formats of WIRE.md that every peer needs: values, control messages, records, batches.
import { Decoder, Encoder, ExtData, ExtensionCodec } from "@msgpack/msgpack";

export const LIVE = 0x0001, GAP = 0x0002, PROTOCOL = 1, HEADER_BYTES = 86, NO_ID = Buffer.alloc(16);

/** An array as extension type 1. */
export class NdArray {
  constructor(dtype, shape, data) {
    Object.assign(this, { dtype, shape, data });
  }
}

const extensions = new ExtensionCodec();
extensions.register({
  type: 1,
  encode: (value) => (value instanceof NdArray ? pack([value.dtype, value.shape, value.data]) : null),
  decode: (bytes) => {
    try {
      const [dtype, shape, data] = unpack(bytes);
      return Array.isArray(shape) && data instanceof Uint8Array ? new NdArray(dtype, shape, data) : new ExtData(1, bytes);
    } catch {
      return new ExtData(1, bytes); // an ndarray that makes no sense is kept as it is
    }
  },
});
extensions.register({
  type: 2,
  encode: () => null,
  decode: (bytes) => BigInt.asIntN(8 * bytes.length, BigInt("0x" + Buffer.from(bytes).toString("hex"))),
});
const options = { extensionCodec: extensions, useBigInt64: true, mapKeyConverter: (key) => key };
const encoder = new Encoder(options), decoder = new Decoder(options);
export const pack = (value) => Buffer.from(encoder.encode(value));
export const unpack = (bytes) => decoder.decode(bytes);
export const unpackAll = (bytes) => [...decoder.decodeMulti(bytes)];

const table = Uint32Array.from({ length: 256 }, (_, byte) => {
  for (let bit = 0; bit < 8; bit++) byte = byte & 1 ? (byte >>> 1) ^ 0xedb88320 : byte >>> 1;
  return byte;
});
export function crc32(bytes) {
  let crc = 0xffffffff;
  for (const byte of bytes) crc = (crc >>> 8) ^ table[(crc ^ byte) & 0xff];
  return (crc ^ 0xffffffff) >>> 0;
}
const be32 = (number) => Buffer.from([number >>> 24, number >>> 16, number >>> 8, number]);

/** A control message: its array, and behind it the checksum. */
export function seal(...array) {
  const bytes = pack(array);
  return Buffer.concat([bytes, be32(crc32(bytes))]);
}
export function unseal(frame) {
  const bytes = frame.subarray(0, -4);
  if (frame.readUInt32BE(bytes.length) !== crc32(bytes)) throw new Error("a control message fails its check");
  return unpack(bytes);
}

export function record(event) {
  const bytes = pack(event);
  return Buffer.concat([Buffer.from([0x93, 0xce]), be32(bytes.length), Buffer.from([0xce]), be32(crc32(bytes)), bytes]);
}

export function packBatch({ session, stream, epoch, first, last, events, body, flags = 0, counter = 0, timeNs = wallNs() }) {
  const header = Buffer.alloc(HEADER_BYTES);
  header.write("TF\x01", "latin1");
  header.writeUInt8(HEADER_BYTES, 3);
  header.writeUInt16BE(flags, 4);
  header.set(session, 6);
  header.set(stream, 22);
  header.writeUInt32BE(epoch, 38);
  header.writeBigUInt64BE(BigInt(first), 42);
  header.writeBigUInt64BE(BigInt(last), 50);
  header.writeUInt32BE(events, 58);
  header.writeBigUInt64BE(BigInt(counter), 62);
  header.writeBigUInt64BE(timeNs, 70);
  header.writeUInt32BE(crc32(body), 78);
  header.writeUInt32BE(crc32(header.subarray(0, 82)), 82);
  return Buffer.concat([header, body]);
}

/** A batch and its events, or an error whose message is the reason of WIRE.md. */
export function readBatch(bytes) {
  const refuse = (reason) => { throw new Error(reason); };
  if (bytes.length < HEADER_BYTES) refuse("too_short");
  if (bytes.toString("latin1", 0, 2) !== "TF") refuse("not_ours");
  if (bytes[2] !== 1) refuse("version");
  const size = bytes[3];
  if (size < HEADER_BYTES || size > bytes.length) refuse("inconsistent");
  if (crc32(bytes.subarray(0, size - 4)) !== bytes.readUInt32BE(size - 4)) refuse("damaged");
  const body = bytes.subarray(size), integer = (offset) => Number(bytes.readBigUInt64BE(offset));
  const batch = {
    flags: bytes.readUInt16BE(4), session: bytes.subarray(6, 22), stream: bytes.subarray(22, 38),
    epoch: bytes.readUInt32BE(38), first: integer(42), last: integer(50), events: bytes.readUInt32BE(58),
    counter: integer(62),
  };
  if (crc32(body) !== bytes.readUInt32BE(78)) refuse("damaged");
  batch.records = [];
  for (let at = 0; at < body.length; ) {
    const end = at + 11 + (at + 11 <= body.length ? body.readUInt32BE(at + 2) : Infinity);
    if (end > body.length) refuse("bad_body");
    batch.records.push(body.subarray(at + 11, end));
    at = end;
  }
  if (batch.records.length !== batch.events) refuse("bad_body");
  return batch;
}

export const wallNs = () => BigInt(Date.now()) * 1_000_000n;
export const monoNs = () => process.hrtime.bigint();
export const hex = (id) => Buffer.from(id).toString("hex");
/** `*:port` is a port of the host that was dialled. */
export const resolve = (endpoint, dialled) => endpoint.replace(/^\*/, dialled.slice(0, dialled.lastIndexOf(":")));
/** One line of JSON on the standard output, with the forms of the vectors; all integers as integers. */
export const say = (value) => process.stdout.write(json(value) + "\n");
export function json(value) {
  if (typeof value === "bigint") return String(value);
  if (typeof value === "number" && !Number.isFinite(value))
    return JSON.stringify({ $float: Number.isNaN(value) ? "nan" : value > 0 ? "inf" : "-inf" });
  if (value instanceof Uint8Array) return JSON.stringify({ $bytes: hex(value) });
  if (Array.isArray(value)) return `[${value.map(json).join(",")}]`;
  if (value === null || typeof value !== "object") return JSON.stringify(value) ?? "null";
  return `{${Object.entries(value).map(([key, item]) => `${JSON.stringify(key)}:${json(item)}`).join(",")}}`;
}
