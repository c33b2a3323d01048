"""Tidy up the persons of a PostHog project with nothing but requests and a personal API key.

Environment: POSTHOG_HOST (https://us.posthog.com), POSTHOG_PROJECT_ID, POSTHOG_PERSONAL_API_KEY (person:read,
person:write, activity_log:read) and POSTHOG_PROJECT_API_KEY. Ingestion is asynchronous, so whatever is expected after a
write is polled for.
"""

import json
import os
import sys
import time

import requests

HOST = os.environ["POSTHOG_HOST"].rstrip("/")
PROJECT_ID = os.environ["POSTHOG_PROJECT_ID"]
PERSONAL_API_KEY = os.environ["POSTHOG_PERSONAL_API_KEY"]
PROJECT_API_KEY = os.environ["POSTHOG_PROJECT_API_KEY"]
PERSONS = f"{HOST}/api/projects/{PROJECT_ID}/persons/"

session = requests.Session()
session.headers["Authorization"] = f"Bearer {PERSONAL_API_KEY}"


def api(method, url, **kwargs):
    response = session.request(method, url, timeout=30, **kwargs)
    response.raise_for_status()
    return response.json() if response.content else None


def wait_until(check, what, tries=120, delay=0.25):
    for _ in range(tries):
        found = check()
        if found:
            return found
        time.sleep(delay)
    sys.exit(f"gave up waiting for {what}")


def capture(distinct_id, event, **properties):
    body = {"api_key": PROJECT_API_KEY, "event": event, "distinct_id": distinct_id, "properties": properties}
    response = requests.post(f"{HOST}/capture/", json=body, timeout=30)
    response.raise_for_status()
    return response.json()


def capture_batch(events):
    body = {"api_key": PROJECT_API_KEY, "historical_migration": False, "batch": events}
    response = requests.post(f"{HOST}/batch/", json=body, timeout=30)
    response.raise_for_status()
    return response.json()


def get_all_persons(**params):
    persons = []
    url = PERSONS
    while url:
        page = api("GET", url, params=params)
        persons.extend(page["results"])
        url = page["next"]
        params = None  # they are part of the next link
    return persons


def find_person(distinct_id):
    results = api("GET", PERSONS, params={"distinct_id": distinct_id})["results"]
    return results[0] if results else None


def own(person):
    return {key: value for key, value in sorted(person["properties"].items()) if not key.startswith("$")}


def seed():
    print("capture", capture("device-1", "$pageview", **{"$set": {"theme": "dark"}})["status"])
    capture("ada@example.com", "signed up", **{"$set": {"email": "ada@example.com", "name": "Ada", "plan": "free"}})
    capture("ada@example.com", "$identify", **{"$anon_distinct_id": "device-1"})
    people = [("bob@example.com", "Bob", "pro"), ("cyd@example.com", "Cyd", "free"), ("test@example.com", "T", "pro")]
    batch = [
        {"event": "signed up", "distinct_id": who, "properties": {"$set": {"email": who, "name": name, "plan": plan}}}
        for who, name, plan in people
    ]
    batch.append({"event": "$pageview", "distinct_id": "device-2", "timestamp": "2026-01-05T12:00:00Z"})
    print("batch", capture_batch(batch)["status"])
    wait_until(lambda: len((find_person("ada@example.com") or {"distinct_ids": []})["distinct_ids"]) == 2, "the merge")
    wait_until(lambda: len(get_all_persons(limit=2)) == 5, "five persons")


def find():
    for person in sorted(get_all_persons(limit=2), key=lambda p: p["name"]):
        print("person", person["name"], sorted(person["distinct_ids"]), own(person))
    print("by distinct_id", find_person("device-1")["name"])
    print("by email", [p["name"] for p in get_all_persons(email="bob@example.com")])
    print("by search", sorted(p["name"] for p in get_all_persons(search="EXAMPLE.COM")))
    pro = json.dumps([{"key": "plan", "value": ["pro"], "operator": "exact", "type": "person"}])
    print("by properties", sorted(p["name"] for p in get_all_persons(properties=pro)))
    unnamed = json.dumps([{"key": "email", "operator": "is_not_set", "type": "person"}])
    print("without email", [p["distinct_ids"] for p in get_all_persons(properties=unnamed)])


def update():
    url = f"{PERSONS}{find_person('ada@example.com')['uuid']}/"
    api("PATCH", url, json={"properties": {"plan": "pro", "seats": 3}})
    wait_until(lambda: api("GET", url)["properties"].get("seats") == 3, "the patched properties")
    api("POST", f"{url}update_property/", json={"key": "vip", "value": True})
    wait_until(lambda: api("GET", url)["properties"].get("vip") is True, "the updated property")
    api("POST", f"{url}delete_property/", json={"$unset": "seats"})
    wait_until(lambda: "seats" not in api("GET", url)["properties"], "the deleted property")
    print("updated", own(api("GET", url)))


def split():
    person = find_person("ada@example.com")
    answer = api("POST", f"{PERSONS}{person['id']}/split/", json={"main_distinct_id": "ada@example.com"})
    print("split", answer["success"])
    apart = wait_until(
        lambda: (lambda p: p if p and p["distinct_ids"] == ["device-1"] else None)(find_person("device-1")),
        "the split",
    )
    print("left", find_person("ada@example.com")["distinct_ids"], "apart", apart["distinct_ids"])


def activity():
    person = find_person("ada@example.com")
    page = wait_until(
        lambda: (lambda a: a if a["results"] else None)(api("GET", f"{PERSONS}{person['uuid']}/activity/")), "activity"
    )
    for item in page["results"]:
        print("activity", item["activity"], item["scope"], item["detail"]["changes"][0]["field"])


def delete():
    testers = ["test@example.com", "device-2"]
    uuids = [find_person(one)["uuid"] for one in testers]
    answer = api("POST", f"{PERSONS}bulk_delete/", json={"distinct_ids": testers, "delete_events": True})
    print("bulk_delete found", answer["persons_found"], "deleted", answer["persons_deleted"])
    wait_until(lambda: not any(find_person(one) for one in testers), "the bulk deletion")
    for uuid in uuids:
        status = wait_until(
            lambda uuid=uuid: api("GET", f"{PERSONS}deletion_status/", params={"person_uuid": uuid})["results"],
            "the deletion status",
        )
        print("deletion_status", [entry["status"] for entry in status])

    url = f"{PERSONS}{find_person('cyd@example.com')['id']}/"
    first = session.delete(url, params={"delete_events": "true"}, timeout=30)
    wait_until(lambda: find_person("cyd@example.com") is None, "the deletion")
    second = session.delete(url, timeout=30)
    print("delete", first.status_code, "again", second.status_code, second.json()["detail"])


def main():
    seed()
    find()
    update()
    split()
    activity()
    delete()
    print("remaining", sorted(p["name"] for p in get_all_persons()))


if __name__ == "__main__":
    main()
