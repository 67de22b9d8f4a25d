"""Loads rows by dlt, as its documentation says that it goes fastest: https://dlthub.com/docs/reference/performance

    load_by_dlt.py ROWS URL SCHEMA TABLE DIRECTORY

ROWS has a JSON object a line, DIRECTORY is where dlt keeps what it needs between runs.
"""

import itertools
import os
import sys

# Rows in memory before they are written to a file, and rows in a file: so that both workers have some.
os.environ["DATA_WRITER__BUFFER_MAX_ITEMS"] = "10000"
os.environ["DATA_WRITER__FILE_MAX_ITEMS"] = "10000"
# Files need not be small: they stay on this machine.
os.environ["DATA_WRITER__DISABLE_COMPRESSION"] = "true"
# Normalizing is bound by the processor, and has a process for each core of the machine that we measure on.
os.environ["NORMALIZE__WORKERS"] = "2"
# How many files are loaded at once.
os.environ["LOAD__WORKERS"] = "4"
# No request to its makers, and nothing printed, while it is measured.
os.environ["RUNTIME__DLTHUB_TELEMETRY"] = "false"
os.environ["RUNTIME__LOG_LEVEL"] = "ERROR"

import dlt  # noqa: E402: it reads the settings
from dlt.common import json  # noqa: E402: the fast parser that comes with it

PAGE = 10_000

# What the columns are, so that nothing is inferred, and JSON stays JSON rather than becoming columns and tables.
COLUMNS = {
    "sequin_id": {"data_type": "text", "nullable": False},
    "sync_id": {"data_type": "text", "nullable": False},
    "sync_external_id": {"data_type": "text"},
    "sync_metadata": {"data_type": "json"},
    "collection_id": {"data_type": "text", "nullable": False},
    "upstream_id": {"data_type": "text", "nullable": False},
    "payload": {"data_type": "json"},
    "updated_idx": {"data_type": "bigint", "nullable": False},
    "upstream_updated_at": {"data_type": "timestamp", "nullable": False},
    "upstream_created_at": {"data_type": "timestamp", "nullable": False},
}


def pages(path):
    """Pages rather than rows: a page goes through the pipeline at once."""
    with open(path, "rb") as file:
        while page := [json.loadb(line) for line in itertools.islice(file, PAGE)]:
            yield page


def main():
    rows, url, schema, table, directory = sys.argv[1:]
    resource = dlt.resource(
        pages(rows),
        name=table,
        primary_key="sequin_id",
        # Staged and merged in one statement, rather than deleted and inserted.
        write_disposition={"disposition": "merge", "strategy": "upsert"},
        columns=COLUMNS,
        max_table_nesting=0,
    )
    pipeline = dlt.pipeline(
        pipeline_name="peer",
        pipelines_dir=directory,
        destination=dlt.destinations.postgres(url),
        dataset_name=schema,
    )
    # By COPY, rather than by INSERT.
    pipeline.run(resource, loader_file_format="csv").raise_on_failed_jobs()


# Its workers are processes that read this file again.
if __name__ == "__main__":
    main()
