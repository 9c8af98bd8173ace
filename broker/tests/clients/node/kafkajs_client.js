// kafkajs. What the program does: ../README.md
//
// kafkajs has no consumer that is assigned its partitions: the only one joins a group, as `group` does. So `read` drives what lies
// under that consumer: its Cluster and Broker for Metadata and Fetch, its decoder for the record batches (with its
// codecs), and its Batch, which drops the records of a batch that lie before the offset asked for.

const assert = require('node:assert')
const { parseArgs } = require('node:util')
const { Kafka, CompressionTypes, ConfigResourceTypes, logLevel } = require('kafkajs')
const Cluster = require('kafkajs/src/cluster')
const Batch = require('kafkajs/src/consumer/batch')
const ISOLATION_LEVEL = require('kafkajs/src/protocol/isolationLevel')
const socketFactory = require('kafkajs/src/network/socketFactory')
const { record, timestampMs, offsetForTime } = require('./records')

const IN_ONE_REQUEST = 20
const WAIT_MS = 30_000

function parseArguments() {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      bootstrap: { type: 'string' },
      partitions: { type: 'string', default: '1' },
      first: { type: 'string', default: '0' },
      records: { type: 'string', default: '0' },
    },
  })
  const [command, ...topics] = positionals
  const { bootstrap, partitions, first, records } = values
  return { command, topics, bootstrap, partitions: Number(partitions), first: Number(first), records: Number(records) }
}

async function create(admin, args, topic) {
  const topics = [{
    topic,
    numPartitions: args.partitions,
    replicationFactor: 1,
    configEntries: [{ name: 'retention.ms', value: '-1' }],
  }]
  assert.strictEqual(await admin.createTopics({ topics }), true, `${topic} is not new`)
  assert.strictEqual(await admin.createTopics({ topics }), false, `${topic} was created twice`)
}

async function write(kafka, args) {
  const admin = kafka.admin()
  await admin.connect()
  for (const topic of args.topics) {
    if (args.first === 0) await create(admin, args, topic)
    const mode = topic.split('.').pop()
    assert(['plain', 'idempotent', 'gzip'].includes(mode), `unknown way to write ${topic}`)
    const idempotent = mode === 'idempotent'
    const producer = kafka.producer({
      idempotent,
      allowAutoTopicCreation: false,
      createPartitioner: () => ({ message }) => message.partition,
    })
    await producer.connect()
    for (let index = args.first; index < args.first + args.records; index += IN_ONE_REQUEST) {
      const end = Math.min(index + IN_ONE_REQUEST, args.first + args.records)
      const messages = []
      for (let partition = 0; partition < args.partitions; partition++) {
        for (let i = index; i < end; i++) messages.push({ partition, ...record(topic, partition, i) })
      }
      const acked = await producer.sendBatch({
        acks: idempotent ? -1 : 1,
        compression: mode === 'gzip' ? CompressionTypes.GZIP : CompressionTypes.None,
        topicMessages: [{ topic, messages }],
      })
      assert.strictEqual(acked.length, args.partitions)
      for (const { partition, baseOffset } of acked) {
        assert.strictEqual(baseOffset, String(index), `${topic}/${partition}: acknowledged at another offset`)
      }
    }
    await producer.disconnect()
  }
  await admin.disconnect()
}

async function connectCluster(kafka, args) {
  const cluster = new Cluster({
    logger: kafka.logger(),
    socketFactory: socketFactory(),
    brokers: [args.bootstrap],
    clientId: 'kafkajs-assigned',
    connectionTimeout: 10_000,
    metadataMaxAge: 300_000,
    allowAutoTopicCreation: false,
    maxInFlightRequests: null,
    isolationLevel: ISOLATION_LEVEL.READ_COMMITTED,
  })
  await cluster.connect()
  await cluster.addMultipleTargetTopics(args.topics)
  return cluster
}

// One fetch from each leader, for all `positions` ({topic, partition, offset}) it leads; yields kafkajs's batches.
async function* fetchOnce(cluster, positions) {
  const byLeader = new Map()
  for (const at of positions) {
    const [leader] = Object.keys(cluster.findLeaderForPartitions(at.topic, [at.partition]))
    byLeader.set(leader, [...(byLeader.get(leader) ?? []), at])
  }
  for (const [nodeId, led] of byLeader) {
    const broker = await cluster.findBroker({ nodeId })
    const { responses } = await broker.fetch({
      replicaId: -1,
      isolationLevel: ISOLATION_LEVEL.READ_COMMITTED,
      maxWaitTime: 1000,
      topics: led.map(({ topic, partition, offset }) => ({
        topic,
        // Small, so that a partition takes several fetches and one batch is larger than the limit.
        partitions: [{ partition, fetchOffset: String(offset), maxBytes: 16384 }],
      })),
    })
    for (const { topicName, partitions } of responses) {
      for (const data of partitions) {
        const asked = led.find(at => at.topic === topicName && at.partition === data.partition)
        assert(asked, `${topicName}/${data.partition} was not asked for`)
        yield [asked, new Batch(topicName, String(asked.offset), data)]
      }
    }
  }
}

async function read(kafka, args) {
  const cluster = await connectCluster(kafka, args)
  const positions = args.topics.flatMap(topic =>
    Array.from({ length: args.partitions }, (_, partition) => ({ topic, partition, offset: 0 })))
  const deadline = Date.now() + WAIT_MS
  for (let missing = positions; missing.length > 0; missing = positions.filter(at => at.offset < args.records)) {
    assert(Date.now() < deadline, `not all records within the time: ${JSON.stringify(missing)}`)
    for await (const [at, batch] of fetchOnce(cluster, missing)) {
      for (const { offset, timestamp, key, value, headers } of batch.messages) {
        const where = `${at.topic}/${at.partition} record ${at.offset}`
        assert(at.offset < args.records, `${where}: more than expected`)
        const want = record(at.topic, at.partition, at.offset)
        assert.deepStrictEqual({ offset, timestamp, key, value, headers }, want, where)
        at.offset++
      }
    }
  }
  await checkOffsets(kafka, args)
  await checkErrors(kafka, cluster, args)
  await cluster.disconnect()
}

async function checkOffsets(kafka, args) {
  const admin = kafka.admin()
  await admin.connect()
  for (const topic of args.topics) {
    const offsets = await admin.fetchTopicOffsets(topic)
    assert.strictEqual(offsets.length, args.partitions)
    for (const { partition, low, high } of offsets) {
      assert.deepStrictEqual([low, high], ['0', String(args.records)], `offsets of ${topic}/${partition}`)
    }
    // Times before, amid and after the records; kafkajs answers the end offset where no record is as late.
    for (const time of [1, timestampMs(0, args.records / 2), timestampMs(args.partitions, args.records)]) {
      for (const { partition, offset } of await admin.fetchTopicOffsetsByTimestamp(topic, time)) {
        const want = String(offsetForTime(partition, args.records, time) ?? args.records)
        assert.strictEqual(offset, want, `offset of ${topic}/${partition} for time ${time}`)
      }
    }
  }
  await admin.disconnect()
}

async function checkErrors(kafka, cluster, args) {
  const beyond = { topic: args.topics[0], partition: 0, offset: args.records + 1000 }
  await assert.rejects(fetchOnce(cluster, [beyond]).next(), { type: 'OFFSET_OUT_OF_RANGE' })
  const admin = kafka.admin()
  await admin.connect()
  const unknown = [`${args.topics[0]}.no-such-topic`]
  await assert.rejects(admin.fetchTopicMetadata({ topics: unknown }), { type: 'UNKNOWN_TOPIC_OR_PARTITION' })
  await admin.disconnect()
}

// Kafka's metadata may be answered from just before a change that it has acknowledged.
async function eventually(holds, complaint) {
  const deadline = Date.now() + WAIT_MS
  while (!(await holds())) assert(Date.now() < deadline, complaint)
}

// The Admin API by its classic requests: kafkajs is the one client here that still sends AlterConfigs, which replaces
// all settings of a topic.
async function adminApi(kafka, args) {
  const [topic] = args.topics
  const admin = kafka.admin()
  await admin.connect()
  const setting = async name => {
    const resources = [{ type: ConfigResourceTypes.TOPIC, name: topic, configNames: [name] }]
    const described = await admin.describeConfigs({ resources })
    return described.resources[0].configEntries[0].configValue
  }
  const configEntries = [{ name: 'message.timestamp.type', value: 'LogAppendTime' }]
  await admin.createTopics({ topics: [{ topic, numPartitions: 1, configEntries }] })
  await eventually(async () => (await admin.listTopics()).includes(topic), `${topic} is not listed`)
  assert.strictEqual(await setting('message.timestamp.type'), 'LogAppendTime')
  const altered = [{ name: 'max.message.bytes', value: '50000' }]
  await admin.alterConfigs({ resources: [{ type: ConfigResourceTypes.TOPIC, name: topic, configEntries: altered }] })
  assert.strictEqual(await setting('max.message.bytes'), '50000')
  assert.strictEqual(await setting('message.timestamp.type'), 'CreateTime', 'AlterConfigs left a setting')

  await admin.createPartitions({ topicPartitions: [{ topic, count: 3 }] })
  const { topics } = await admin.fetchTopicMetadata({ topics: [topic] })
  const cluster = await admin.describeCluster()
  assert.strictEqual(topics[0].partitions.length, 3)
  for (const { leader, replicas, isr } of topics[0].partitions) {
    assert(cluster.brokers.some(({ nodeId }) => nodeId === leader), `leader ${leader} is no broker`)
    assert.deepStrictEqual([replicas, isr], [[leader], [leader]])
  }
  await admin.deleteTopics({ topics: [topic] })
  await eventually(async () => !(await admin.listTopics()).includes(topic), `${topic} is still listed`)
  await admin.disconnect()
}

// Goes on where the group of the topic has come to, reads what is new, and commits it.
async function group(kafka, args) {
  const [topic] = args.topics
  const groupId = `${topic}.group`
  const end = args.first + args.records
  const admin = kafka.admin()
  await admin.connect()
  const checkCommitted = async want => {
    const [{ partitions }] = await admin.fetchOffsets({ groupId, topics: [topic] })
    assert.strictEqual(partitions.length, args.partitions)
    for (const { partition, offset } of partitions) {
      assert.strictEqual(offset, String(want > 0 ? want : -1), `${groupId} in partition ${partition}`)
    }
  }
  await checkCommitted(args.first)
  const consumer = kafka.consumer({ groupId, heartbeatInterval: 200, maxWaitTimeInMs: 100 })
  const joined = new Promise(resolve => consumer.on(consumer.events.GROUP_JOIN, resolve))
  await consumer.connect()
  await consumer.subscribe({ topic, fromBeginning: true })
  const next = Array(args.partitions).fill(args.first)
  let fail
  const failed = new Promise((_, reject) => { fail = reject })
  const complete = new Promise(resolve => {
    if (args.records === 0) joined.then(resolve)
    consumer.run({
      autoCommit: false,
      eachMessage: async ({ partition, message }) => {
        try {
          const { offset, timestamp, key, value, headers } = message
          const where = `${topic}/${partition} record ${next[partition]}`
          assert(next[partition] < end, `${where}: more than expected`)
          assert.deepStrictEqual({ offset, timestamp, key, value, headers }, record(topic, partition, next[partition]), where)
          next[partition]++
          if (next.every(at => at === end)) resolve()
        } catch (error) { fail(error) }
      },
    }).catch(fail)
  })
  const late = setTimeout(() => fail(new Error(`${groupId} has come only to ${next}`)), WAIT_MS)
  await Promise.race([complete, failed])
  clearTimeout(late)
  await consumer.commitOffsets(next.map((offset, partition) => ({ topic, partition, offset: String(offset) })))
  await consumer.disconnect()
  await checkCommitted(end)
  const { groups } = await admin.describeGroups([groupId])
  assert.deepStrictEqual([groups[0].errorCode, groups[0].state, groups[0].members], [0, 'Empty', []])
  assert((await admin.listGroups()).groups.some(listed => listed.groupId === groupId), `${groupId} is not listed`)
  await admin.disconnect()
}

// A member of a group: says what it is assigned and what it takes, until it is asked to leave.
async function member(kafka, args) {
  const [topic, groupId] = args.topics
  const consumer = kafka.consumer({
    groupId, heartbeatInterval: 200, sessionTimeout: 6000, rebalanceTimeout: 10_000, maxWaitTimeInMs: 100,
  })
  consumer.on(consumer.events.GROUP_JOIN, ({ payload }) => {
    const assigned = payload.memberAssignment[topic] ?? []
    console.log(['assigned', ...assigned.toSorted((a, b) => a - b)].join(' '))
  })
  const asked = new Promise(resolve => process.once('SIGTERM', resolve))
  let fail
  const failed = new Promise((_, reject) => { fail = reject })
  consumer.on(consumer.events.CRASH, ({ payload }) => { if (!payload.restart) fail(payload.error) })
  await consumer.connect()
  await consumer.subscribe({ topic, fromBeginning: true })
  await consumer.run({
    autoCommit: false,
    eachMessage: async ({ partition, message }) => {
      console.log(`took ${partition} ${message.offset}`)
      try {
        await consumer.commitOffsets([{ topic, partition, offset: String(Number(message.offset) + 1) }])
      } catch (error) {
        // Who has the partition next takes the record again.
        console.log(`not committed: ${error}`)
      }
    },
  })
  await Promise.race([asked, failed])
  await consumer.disconnect()
}

async function transact(kafka, args) {
  const [topic] = args.topics
  const end = args.first + args.records
  const groupId = `${topic}.group`
  const partitions = Array.from({ length: args.partitions }, (_, partition) => partition)
  const admin = kafka.admin()
  await admin.connect()
  if (args.first === 0) await create(admin, args, topic)

  // What the program has left by its last end is aborted by the first transaction of these.
  const newProducer = async () => {
    const producer = kafka.producer({
      transactionalId: topic,
      idempotent: true,
      maxInFlightRequests: 1,
      allowAutoTopicCreation: false,
      createPartitioner: () => ({ message }) => message.partition,
    })
    await producer.connect()
    return producer
  }
  const send = async transaction => {
    const messages = partitions.flatMap(partition =>
      Array.from({ length: args.records }, (_, i) => ({ partition, ...record(topic, partition, args.first + i) })))
    await transaction.send({ topic, messages })
  }
  // Records that nobody is to see.
  const lose = async transaction => {
    await transaction.send({ topic, messages: partitions.map(partition => ({ partition, value: 'lost' })) })
  }

  const oldProducer = await newProducer()
  const old = await oldProducer.transaction()
  await lose(old)
  const producer = await newProducer()
  let transaction = await producer.transaction()
  await assert.rejects(old.commit(), error => ['INVALID_PRODUCER_EPOCH', 'PRODUCER_FENCED'].includes(error.type))
  await oldProducer.disconnect()
  await send(transaction)
  await transaction.abort()

  transaction = await producer.transaction()
  await send(transaction)
  await transaction.sendOffsets({
    consumerGroupId: groupId,
    topics: [{ topic, partitions: partitions.map(partition => ({ partition, offset: String(end) })) }],
  })
  await transaction.commit()

  transaction = await producer.transaction()
  await lose(transaction)
  await transaction.abort()

  await readCommitted(kafka, args, topic, end)
  const [{ partitions: committed }] = await admin.fetchOffsets({ groupId, topics: [topic] })
  for (const { partition, offset } of committed) {
    assert.strictEqual(offset, String(end), `${groupId} in partition ${partition}`)
  }
  await admin.disconnect()

  // Whoever starts next with its id finds an ongoing transaction, be the broker the same or not.
  transaction = await producer.transaction()
  await lose(transaction)
  await producer.disconnect()
}

// The records up to `end`, each once, and nothing behind them up to the last stable offset.
async function readCommitted(kafka, args, topic, end) {
  const cluster = await connectCluster(kafka, args)
  const seen = Array(args.partitions).fill(0)
  let behind = seen.map((_, partition) => ({ topic, partition, offset: 0, end: Infinity }))
  const deadline = Date.now() + WAIT_MS
  while (behind.length > 0) {
    assert(Date.now() < deadline, `${topic} is read only up to ${seen}`)
    for await (const [at, batch] of fetchOnce(cluster, behind)) {
      for (const { value } of batch.messages) {
        const index = seen[at.partition]++
        assert.deepStrictEqual(value, record(topic, at.partition, index).value, `${topic}/${at.partition} record ${index}`)
      }
      if (!batch.isEmptyIncludingFiltered()) at.offset = Number(batch.lastOffset()) + 1
      // No transaction is open: the high watermark is the last stable offset.
      at.end = Number(batch.highWatermark)
    }
    behind = behind.filter(at => at.offset < at.end)
  }
  assert(seen.every(count => count === end), `${topic} has ${seen} of ${end}`)
  await cluster.disconnect()
}

async function main() {
  const args = parseArguments()
  const kafka = new Kafka({ clientId: 'chronik-test', brokers: [args.bootstrap], logLevel: logLevel.NOTHING })
  const commands = { write, read, group, member, transact, admin: adminApi }
  assert(args.command in commands, `unknown command ${args.command}`)
  await commands[args.command](kafka, args)
  const count = args.topics.length * args.partitions * args.records
  console.log(args.command === 'admin' ? 'admin: done' : `${args.command}: ${count} records of ${args.topics.length} topics`)
  // After a broker's death kafkajs leaves a timer behind, and so a process that does not end by itself.
  if (args.command === 'member') process.exit(0)
}

main().catch(error => {
  console.error('MISMATCH:', error)
  process.exit(1)
})
