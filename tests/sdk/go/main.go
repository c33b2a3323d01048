// The story of tests/support/sdks.py as posthog-go tells it. Arguments: host, token, and a personal key or nothing.
// Prints one line of JSON: everything that the SDK complained about, and what it said of flags.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"sync"

	"github.com/posthog/posthog-go"
)

// Keeps what the SDK logs, and waits for what becomes of each message: Close drops what is to be sent again.
type listener struct {
	lock       sync.Mutex
	complaints []string
	underway   sync.WaitGroup
}

func (l *listener) complain(format string, values ...interface{}) {
	l.lock.Lock()
	defer l.lock.Unlock()
	l.complaints = append(l.complaints, fmt.Sprintf(format, values...))
}

func (l *listener) Logf(format string, values ...interface{})   { l.complain(format, values...) }
func (l *listener) Errorf(format string, values ...interface{}) { l.complain(format, values...) }
func (l *listener) Success(posthog.APIMessage)                  { l.underway.Done() }
func (l *listener) Failure(_ posthog.APIMessage, err error) {
	l.complain("gave up: %v", err)
	l.underway.Done()
}

type properties = map[string]interface{}

func main() {
	host, token, key := os.Args[1], os.Args[2], os.Args[3]
	story := []posthog.Message{
		posthog.Capture{
			DistinctId: "anon-1", Event: "viewed",
			Properties: posthog.NewProperties().Set("$process_person_profile", false),
		},
		posthog.Capture{
			DistinctId: "ada", Event: "$identify",
			Properties: posthog.NewProperties().Set("$anon_distinct_id", "anon-1").
				Set("$set", properties{"plan": "free"}).Set("$set_once", properties{"first_plan": "free"}),
		},
		posthog.Identify{DistinctId: "ada", Properties: posthog.NewProperties().Set("plan", "pro").Set("theme", "dark")},
		posthog.Capture{
			DistinctId: "ada", Event: "upgraded",
			Properties: posthog.NewProperties().Set("$set_once", properties{"first_plan": "pro"}),
		},
		posthog.Capture{
			DistinctId: "ada", Event: "tidied", Properties: posthog.NewProperties().Set("$unset", []string{"theme"}),
		},
		posthog.Alias{DistinctId: "ada", Alias: "ada-2"},
		posthog.GroupIdentify{Type: "company", Key: "acme", Properties: posthog.NewProperties().Set("name", "Acme")},
		posthog.Capture{DistinctId: "ada", Event: "met", Groups: posthog.NewGroups().Set("company", "acme")},
	}
	heard := &listener{complaints: []string{}}
	client, err := posthog.NewWithConfig(token, posthog.Config{
		Endpoint: host, PersonalApiKey: key, Logger: heard, Callback: heard,
		BatchSize: len(story), // it sends each batch by itself, so that of two the later may arrive first
	})
	if err != nil {
		panic(err)
	}
	heard.underway.Add(len(story))
	for _, message := range story {
		if err := client.Enqueue(message); err != nil {
			panic(err)
		}
	}
	heard.underway.Wait()
	heard.underway.Add(1) // it says itself that a flag was asked for
	one, err := client.GetFeatureFlag(posthog.FeatureFlagPayload{Key: "beta", DistinctId: "ada"})
	if err != nil {
		heard.complain("flag: %v", err)
	}
	all, err := client.GetAllFlags(posthog.FeatureFlagPayloadNoKey{DistinctId: "ada"})
	if err != nil {
		heard.complain("flags: %v", err)
	}
	if key != "" {
		if err := client.ReloadFeatureFlags(); err != nil {
			heard.complain("definitions: %v", err)
		}
	}
	if err := client.Close(); err != nil {
		heard.complain("close: %v", err)
	}
	told, err := json.Marshal(properties{"complaints": heard.complaints, "flags": properties{"one": one, "all": all}})
	if err != nil {
		panic(err)
	}
	fmt.Println(string(told))
}
