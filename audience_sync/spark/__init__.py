"""Apache Spark as a SQL database: Spark Connect, its own client protocol, as a DBAPI and a SQLAlchemy dialect.

`spark://user:token@host:15002/catalog.schema?use_ssl=true` names a Spark Connect server; what follows `?` are the
parameters of Spark's own connection string.
https://spark.apache.org/docs/latest/spark-connect-overview.html
"""
