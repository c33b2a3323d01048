// The story of tests/support/sdks.py as posthog-node tells it. Arguments: host, token, and a personal key or nothing.
// Prints one line of JSON: everything that the SDK complained about, and what it said of flags.
import { PostHog } from 'posthog-node'

const [host, token, personalApiKey] = process.argv.slice(2)
const complaints = []
for (const level of ['warn', 'error']) console[level] = (...said) => complaints.push(said.map(String).join(' '))

const fetchRetryDelay = Number(process.env.STORY_RETRY_MS || 3000) // the default, unless told
const client = new PostHog(token, { host, personalApiKey: personalApiKey || undefined, fetchRetryDelay })
client.on('error', (error) => complaints.push(`error: ${error}`))
const server = setInterval(() => {}, 1000) // over v1 its wait for a retry does not keep a process alive

client.capture({ distinctId: 'anon-1', event: 'viewed', properties: { $process_person_profile: false } })
client.identify({
  distinctId: 'ada',
  properties: { $anon_distinct_id: 'anon-1', $set: { plan: 'free' }, $set_once: { first_plan: 'free' } },
})
client.capture({
  distinctId: 'ada',
  event: 'upgraded',
  properties: { $set: { plan: 'pro', theme: 'dark' }, $set_once: { first_plan: 'pro' } },
})
client.capture({ distinctId: 'ada', event: 'tidied', properties: { $unset: ['theme'] } })
client.alias({ distinctId: 'ada', alias: 'ada-2' })
client.groupIdentify({ groupType: 'company', groupKey: 'acme', properties: { name: 'Acme' } })
client.capture({ distinctId: 'ada', event: 'met', groups: { company: 'acme' } })
const evaluated = await client.evaluateFlags('ada')
const flags = { one: evaluated.getFlag('beta') ?? null, all: await client.getAllFlags('ada') }
if (personalApiKey) await client.reloadFeatureFlags()
await client.shutdown()
clearInterval(server)
process.stdout.write(JSON.stringify({ complaints, flags }) + '\n')
