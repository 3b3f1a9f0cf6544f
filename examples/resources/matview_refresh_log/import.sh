# By the schema that holds the tables.
terraform import matview_refresh_log.this public
