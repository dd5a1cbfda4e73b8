"""Real local Spark, by mapInPandas and by predict_batch_udf: python -m tests.engines.check_spark FOLDER.

Every row must be there once, with the answer that this process gives it alone. The exit code is 0 if so.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from pyspark.ml.functions import predict_batch_udf
from pyspark.sql import SparkSession
from pyspark.sql.types import StringType

from doge_export.batch import Generator
from tests.engines.prompts import compare, prompts

SCHEMA = "number long, prompt string, text string, finish_reason string, error string"


def main() -> int:
    """Run both ways, and compare."""
    generator = Generator(Path(sys.argv[1]).resolve(), max_new_tokens=12, temperature=1.0, seed=3)
    rows = prompts(80)
    os.environ["PYSPARK_PYTHON"] = sys.executable  # of the workers; else the first python3 of the PATH
    spark = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false").getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    frame = spark.createDataFrame(rows, "number long, prompt string").repartition(4)
    mapped = [row.asDict() for row in frame.mapInPandas(generator, schema=SCHEMA).collect()]
    wrong = compare("Spark, mapInPandas", mapped, rows, generator)
    answer = predict_batch_udf(lambda: generator, return_type=StringType(), batch_size=16)
    whole = frame.where("prompt is not null").withColumn("text", answer("prompt"))
    texts = [{**row.asDict(), "error": ""} for row in whole.collect()]
    asked = [row for row in rows if row["prompt"] is not None]
    return wrong + compare("Spark, predict_batch_udf", texts, asked, generator)


if __name__ == "__main__":
    sys.exit(main())
