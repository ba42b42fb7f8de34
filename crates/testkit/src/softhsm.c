/* A PKCS#11 module in front of SoftHSM's that fails on command, for tests: slow, dying at the n-th change, refusing. */
#include <dlfcn.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

typedef unsigned long ulong;
typedef struct {
  unsigned char major, minor;
  void *f[68];
} functions;

/* Places in CK_FUNCTION_LIST (PKCS#11 2.40). */
enum { CREATE = 20, DESTROY = 22, ENCRYPT_INIT = 29, DECRYPT_INIT = 33, SIGN_INIT = 42, GENERATE = 58, GENERATE_PAIR = 59 };

static functions real, ours;
static int changes;

/* The content of SOTTO_SHIM_CONTROL/name; whether it is there. */
static int asked(const char *name, char *text, size_t size) {
  char path[4096];
  const char *folder = getenv("SOTTO_SHIM_CONTROL");
  if (!folder) return 0;
  snprintf(path, sizeof path, "%s/%s", folder, name);
  FILE *file = fopen(path, "r");
  if (!file) return 0;
  size_t got = fread(text, 1, size - 1, file);
  text[got] = 0;
  fclose(file);
  return 1;
}

/* `slow`: milliseconds that each use of a key takes. */
static void dawdle(void) {
  char text[64];
  if (!asked("slow", text, sizeof text)) return;
  long ms = atol(text);
  struct timespec pause = {ms / 1000, (ms % 1000) * 1000000};
  nanosleep(&pause, NULL);
}

/* `fail`: a code (hex) that the next use of a key gets, once. */
static ulong refusal(void) {
  char text[64], path[4096];
  if (!asked("fail", text, sizeof text)) return 0;
  snprintf(path, sizeof path, "%s/fail", getenv("SOTTO_SHIM_CONTROL"));
  unlink(path);
  return strtoul(text, NULL, 16);
}

/* `closed`: a code (hex) that every change gets, for as long as the order stands: a token that is full or read-only. */
static ulong closed(void) {
  char text[64];
  return asked("closed", text, sizeof text) ? strtoul(text, NULL, 16) : 0;
}

/* `die`: the number of the change at which the process dies; even numbers before it, odd ones after it. */
static void perhaps_die(int after) {
  char text[64];
  if (asked("die", text, sizeof text) && atoi(text) == 2 * changes + after) raise(SIGKILL);
}

static ulong create(ulong s, void *a, ulong n, ulong *o) {
  ulong refused = closed();
  if (refused) return refused;
  perhaps_die(0);
  ulong result = ((ulong(*)(ulong, void *, ulong, ulong *))real.f[CREATE])(s, a, n, o);
  perhaps_die(1);
  changes++;
  return result;
}

static ulong destroy(ulong s, ulong o) {
  ulong refused = closed();
  if (refused) return refused;
  perhaps_die(0);
  ulong result = ((ulong(*)(ulong, ulong))real.f[DESTROY])(s, o);
  perhaps_die(1);
  changes++;
  return result;
}

static ulong generate(ulong s, void *m, void *a, ulong n, ulong *o) {
  ulong refused = closed();
  if (refused) return refused;
  perhaps_die(0);
  ulong result = ((ulong(*)(ulong, void *, void *, ulong, ulong *))real.f[GENERATE])(s, m, a, n, o);
  perhaps_die(1);
  changes++;
  return result;
}

static ulong generate_pair(ulong s, void *m, void *a, ulong n, void *b, ulong k, ulong *o, ulong *p) {
  ulong refused = closed();
  if (refused) return refused;
  perhaps_die(0);
  ulong result = ((ulong(*)(ulong, void *, void *, ulong, void *, ulong, ulong *, ulong *))real.f[GENERATE_PAIR])(
      s, m, a, n, b, k, o, p);
  perhaps_die(1);
  changes++;
  return result;
}

static ulong begin(int which, ulong s, void *m, ulong k) {
  dawdle();
  ulong refused = refusal();
  return refused ? refused : ((ulong(*)(ulong, void *, ulong))real.f[which])(s, m, k);
}
static ulong encrypt_init(ulong s, void *m, ulong k) { return begin(ENCRYPT_INIT, s, m, k); }
static ulong decrypt_init(ulong s, void *m, ulong k) { return begin(DECRYPT_INIT, s, m, k); }
static ulong sign_init(ulong s, void *m, ulong k) { return begin(SIGN_INIT, s, m, k); }

ulong C_GetFunctionList(functions **list) {
  if (!ours.major) {
    void *module = dlopen(getenv("SOTTO_SHIM_MODULE"), RTLD_NOW | RTLD_LOCAL);
    if (!module) return 5;
    ulong (*get)(functions **) = (ulong(*)(functions **))dlsym(module, "C_GetFunctionList");
    functions *found;
    if (!get || get(&found)) return 5;
    real = ours = *found;
    ours.f[CREATE] = create;
    ours.f[DESTROY] = destroy;
    ours.f[GENERATE] = generate;
    ours.f[GENERATE_PAIR] = generate_pair;
    ours.f[ENCRYPT_INIT] = encrypt_init;
    ours.f[DECRYPT_INIT] = decrypt_init;
    ours.f[SIGN_INIT] = sign_init;
  }
  *list = &ours;
  return 0;
}
