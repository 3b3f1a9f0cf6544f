/* A provider of security labels that takes any label: PostgreSQL's packages have
 * none that works on every machine. It declares what it needs of the server, whose
 * headers need not be there. */

extern void register_label_provider(const char *name, void (*check)(const void *object, const char *label));

/* Pg_magic_struct of fmgr.h, for PostgreSQL VERSION. */
typedef struct {
  int len, version, function_arguments, index_keys, name_length, float8_by_value;
#if VERSION >= 1500
  char fork[32];
#endif
#if VERSION >= 1800
  const char *name, *release;
#endif
} magic;

const magic *Pg_magic_func(void) {
  static const magic block = {
      sizeof(magic),
      VERSION,
      100, 32, 64, 1,
#if VERSION >= 1500
      "PostgreSQL",
#endif
  };
  return &block;
}

static void take(const void *object, const char *label) {
  (void)object;
  (void)label;
}

void _PG_init(void) { register_label_provider("Some one", take); }
