/** Tables, migrations, the pool, and the embedded PostgreSQL. */
export {};
