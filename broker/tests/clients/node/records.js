// The records that every client writes and expects: ../README.md

const zlib = require('node:zlib')

// Old on purpose: a broker that takes its own clock for the record's is found out.
const BASE_TIMESTAMP_MS = 1_700_000_000_000

// The top bytes of xorshift32: the same few lines in each language.
function pseudoRandomBytes(seed, count) {
  let state = seed || 1
  const out = Buffer.alloc(count)
  for (let at = 0; at < count; at++) {
    state = (state ^ (state << 13)) >>> 0
    state = (state ^ (state >>> 17)) >>> 0
    state = (state ^ (state << 5)) >>> 0
    out[at] = state >>> 24
  }
  return out
}

function timestampMs(partition, index) {
  const late = index % 5 === 3 ? 5000 : 0
  return BASE_TIMESTAMP_MS + partition * 1_000_000 + index * 1000 - late
}

// Written by a client that refuses null header values, or a record without key and value.
function limited(topic) {
  return ['kafkajs', 'kafka-python', 'aiokafka'].some(name => topic.includes(`.${name}.`))
}

function record(topic, partition, index) {
  const seed = zlib.crc32(`${topic}/${partition}/${index}`)
  const key = [
    () => null,
    () => Buffer.alloc(0),
    () => Buffer.from(`key-${index}`),
    () => pseudoRandomBytes(seed, 16),
    () => Buffer.from(`ключ-${index}`),
  ][index % 5]()
  let value = [
    () => pseudoRandomBytes(seed, 256),
    () => Buffer.alloc(0),
    () => null,
    () => Buffer.from(`value ${index} of ${topic}/${partition}`),
    () => pseudoRandomBytes(seed, 1 + (seed % 1000)),
    () => Buffer.from(`{"i":${index}}`),
    () => pseudoRandomBytes(seed, 17),
  ][index % 7]()
  if (index === 10) value = Buffer.alloc(100_000, pseudoRandomBytes(seed, 1000))
  if (limited(topic) && key === null && value === null) value = Buffer.alloc(0)
  // As kafkajs has them: one value, or the values of a repeated key, by key.
  const headers = [
    () => ({}),
    () => ({ h: Buffer.from('1') }),
    () => ({
      trace: pseudoRandomBytes(seed, 8),
      empty: Buffer.alloc(0),
      ...(limited(topic) ? {} : { null: null }),
    }),
    () => ({ twice: ['a', 'b', 'a'].map(v => Buffer.from(v)) }),
  ][index % 4]()
  return { offset: String(index), timestamp: String(timestampMs(partition, index)), key, value, headers }
}

// The first offset, in the log's order, whose timestamp is at least `timestamp`; undefined if there is none.
function offsetForTime(partition, records, timestamp) {
  for (let index = 0; index < records; index++) if (timestampMs(partition, index) >= timestamp) return index
  return undefined
}

module.exports = { record, timestampMs, offsetForTime }
