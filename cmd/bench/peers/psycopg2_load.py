"""Python with psycopg2 and nothing else that is not in the standard library.

copy: copy_expert straight into the table, one window after the other, in one transaction.
upsert: execute_values with pages of 10 000 rows into an upsert that leaves equal rows alone.

Numbers stay text (parse_float=str): exact, and faster than Decimal.
"""

import io
import json
import os
import sys
import urllib.request

import psycopg2
import psycopg2.extras

UPSERT = """
    insert into bench.peer as stored
        (customer_key, service_level_key, sampled_at, committed_tib, consumed_tib, burst_tib, accrued_burst_tib, is_invoiced)
    values %s
    on conflict (customer_key, service_level_key, sampled_at) do update
    set committed_tib = excluded.committed_tib,
        consumed_tib = excluded.consumed_tib,
        burst_tib = excluded.burst_tib,
        accrued_burst_tib = excluded.accrued_burst_tib,
        is_invoiced = excluded.is_invoiced
    where (stored.committed_tib, stored.consumed_tib, stored.burst_tib, stored.accrued_burst_tib, stored.is_invoiced)
        is distinct from (excluded.committed_tib, excluded.consumed_tib, excluded.burst_tib, excluded.accrued_burst_tib, excluded.is_invoiced)
"""


def answer(url):
    headers = {"authorizationToken": os.environ["BENCH_TOKEN"], "accept": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as response:
        return json.loads(response.read(), parse_float=str)


def rows(body, customer, keys):
    for record in body["results"]["records"]:
        number = record["subscription"]["number"]
        for level in record["service_levels"]:
            key = keys[number + "|" + level["name"]]
            for s in level["historical_consumption"]:
                yield (
                    customer,
                    key,
                    s["timestamp_utc"],
                    s["committed_tib"],
                    s["consumed_tib"],
                    s["burst_tib"],
                    s["accrued_burst_tib"],
                    s["is_invoiced"],
                )


def main(how):
    customer = int(os.environ["BENCH_CUSTOMER_KEY"])
    with open(os.environ["BENCH_KEYS"]) as f:
        keys = json.load(f)
    with open(os.environ["BENCH_URLS"]) as f:
        urls = f.read().split()
    connection = psycopg2.connect(os.environ["BENCH_URL"])
    with connection, connection.cursor() as cursor:
        for url in urls:
            found = rows(answer(url), customer, keys)
            if how == "copy":
                text = io.StringIO()
                text.writelines("%s,%s,%s,%s,%s,%s,%s,%s\n" % row for row in found)
                text.seek(0)
                cursor.copy_expert("copy bench.peer from stdin with (format csv)", text, size=1 << 20)
            else:
                psycopg2.extras.execute_values(cursor, UPSERT, found, page_size=10_000)
    connection.close()


main(sys.argv[1])
