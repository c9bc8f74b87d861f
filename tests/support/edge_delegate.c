// A real external delegate for LiteRT that computes what it claims, and misbehaves on demand; see edge_delegates.py.
//
// It claims float32 ADD and MUL (equal shapes, or one operand of a single element, no fused activation) and the custom
// operator `edgetpu-custom-op` (y = factor * x, the factor a float32 in its custom options). Compiled with -DEDGETPU it
// claims the latter alone, takes only the option `device`, and reads the others from the environment's FAKE_EDGETPU.

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "edge_delegate_abi.h"

// ---- Options.

typedef struct {
  char device[64], only[64];
  char vanish_file[256], count_file[256], record_file[256], when_file[256], lock_dir[256];
  long refuse, refuse_model, crash_on_load, delay_ms, stall_every, stall_ms;
  long fail_at, fail_every, hang_at, abort_at, abort_every, segfault_at;
} Options;

typedef struct { const char *name; size_t offset, bytes; } Field;

#define TEXT(name) {#name, offsetof(Options, name), sizeof(((Options *)0)->name)}
#define NUMBER(name) {#name, offsetof(Options, name), 0}

static const Field fields[] = {
  TEXT(device), TEXT(only), TEXT(vanish_file), TEXT(count_file), TEXT(record_file), TEXT(when_file), TEXT(lock_dir),
  NUMBER(refuse), NUMBER(refuse_model), NUMBER(crash_on_load), NUMBER(delay_ms), NUMBER(fail_at),
  NUMBER(stall_every), NUMBER(stall_ms),
  NUMBER(fail_every), NUMBER(hang_at), NUMBER(abort_at), NUMBER(abort_every), NUMBER(segfault_at),
};

static bool set(Options *options, const char *key, const char *value) {
  for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
    char *end = NULL, *place = (char *)options + fields[i].offset;
    if (strcmp(fields[i].name, key) != 0) continue;
    if (fields[i].bytes) return (size_t)snprintf(place, fields[i].bytes, "%s", value) < fields[i].bytes;
    *(long *)place = strtol(value, &end, 10);
    return *value && !*end;
  }
  return false;
}

// ---- What goes wrong.

typedef struct { Delegate base; Options options; int lock; } Fake;
typedef struct { Fake *fake; int builtin; float factor; int inputs[2], count, output; } Kernel;

static atomic_long invokes;

static bool exists(const char *path) { return access(path, F_OK) == 0; }
static bool gone(const Options *o) { return *o->vanish_file && !exists(o->vanish_file); }
static bool due(long number, long at, long every) { return number == at || (every > 0 && number % every == 0); }

static void append(const char *path, const char *text, size_t bytes, long *size) {
  int file = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  if (file < 0 || write(file, text, bytes) != (ssize_t)bytes) abort();
  if (size) *size = lseek(file, 0, SEEK_CUR);
  close(file);
}

static int misbehave(Context *context, const Options *o) {
  long number = 0;
  bool armed = !*o->when_file || exists(o->when_file);
  if (armed) number = atomic_fetch_add(&invokes, 1) + 1;
  size_t length = strlen(o->device);
  if (*o->count_file) append(o->count_file, length ? o->device + length - 1 : ".", 1, armed ? &number : NULL);
  if (gone(o)) {
    context->report(context, "the device is gone");
    return ERROR;
  }
  if (!armed) return OK;
  if (due(number, o->abort_at, o->abort_every)) {
    fprintf(stderr, "the delegate aborts at invoke %ld\n", number);
    abort();
  }
  if (number == o->segfault_at) raise(SIGSEGV);
  while (number == o->hang_at) pause();
  long delay_ms = due(number, 0, o->stall_every) ? o->stall_ms : o->delay_ms;
  struct timespec delay = {delay_ms / 1000, delay_ms % 1000 * 1000000};
  while (nanosleep(&delay, &delay) != 0 && errno == EINTR) {}
  if (due(number, o->fail_at, o->fail_every)) {
    context->report(context, "the delegate fails at invoke %ld", number);
    return ERROR;
  }
  return OK;
}

// ---- One operator.

static size_t elements(const Tensor *tensor) {
  size_t count = 1;
  for (int i = 0; i < tensor->dims->size; i++) count *= (size_t)tensor->dims->data[i];
  return count;
}

static bool same_shape(const Tensor *a, const Tensor *b) {
  return a->dims->size == b->dims->size &&
         memcmp(a->dims->data, b->dims->data, sizeof(int) * (size_t)a->dims->size) == 0;
}

static double value(const Tensor *tensor, size_t i) {
  switch (tensor->type) {
    case UINT8: return tensor->scale * (double)(((uint8_t *)tensor->data)[i] - tensor->zero_point);
    case INT8: return tensor->scale * (double)(((int8_t *)tensor->data)[i] - tensor->zero_point);
    default: return (double)((float *)tensor->data)[i];
  }
}

static void store(Tensor *tensor, size_t i, double real) {
  if (tensor->type == FLOAT32) {
    ((float *)tensor->data)[i] = (float)real;
    return;
  }
  double low = tensor->type == INT8 ? -128 : 0;
  double quantized = fmin(fmax(rint(real / tensor->scale) + tensor->zero_point, low), low + 255);
  if (tensor->type == INT8) ((int8_t *)tensor->data)[i] = (int8_t)quantized;
  else ((uint8_t *)tensor->data)[i] = (uint8_t)quantized;
}

static void *kernel_init(Context *context, const char *buffer, size_t length) {
  (void)length;
  const Partition *partition = (const Partition *)buffer;
  Node *node;
  Registration *registration;
  if (context->node(context, partition->nodes->data[0], &node, &registration) != OK) return NULL;
  Kernel *kernel = calloc(1, sizeof *kernel);
  kernel->fake = (Fake *)partition->delegate;
  kernel->builtin = registration->builtin_code;
  kernel->count = node->inputs->size;
  memcpy(kernel->inputs, node->inputs->data, sizeof(int) * (size_t)kernel->count);
  kernel->output = node->outputs->data[0];
  if (kernel->builtin == BUILTIN_CUSTOM) memcpy(&kernel->factor, node->custom_data, sizeof kernel->factor);
  return kernel;
}

static void kernel_free(Context *context, void *kernel) { (void)context; free(kernel); }

static int kernel_prepare(Context *context, Node *node) {
  Kernel *kernel = node->user_data;
  Tensor *like = &context->tensors[kernel->inputs[0]], *output = &context->tensors[kernel->output];
  if (kernel->count == 2 && elements(&context->tensors[kernel->inputs[1]]) > elements(like))
    like = &context->tensors[kernel->inputs[1]];
  if (same_shape(like, output)) return OK;
  size_t bytes = sizeof(Ints) + sizeof(int) * (size_t)like->dims->size;
  return context->resize(context, output, memcpy(malloc(bytes), like->dims, bytes));
}

static int kernel_invoke(Context *context, Node *node) {
  Kernel *kernel = node->user_data;
  if (misbehave(context, &kernel->fake->options) != OK) return ERROR;
  const Tensor *a = &context->tensors[kernel->inputs[0]], *b = &context->tensors[kernel->inputs[kernel->count - 1]];
  Tensor *y = &context->tensors[kernel->output];
  size_t count = elements(y), step_a = elements(a) > 1, step_b = elements(b) > 1;
  for (size_t i = 0; i < count; i++) {
    double left = value(a, i * step_a), right = kernel->count == 1 ? kernel->factor : value(b, i * step_b);
    store(y, i, kernel->builtin == BUILTIN_ADD ? left + right : left * right);
  }
  return OK;
}

// ---- The delegate.

static bool claims(Context *context, const Node *node, const Registration *registration) {
  if (registration->builtin_code == BUILTIN_CUSTOM)
    return strcmp(registration->custom_name, "edgetpu-custom-op") == 0 && node->custom_bytes >= 4;
#ifdef EDGETPU
  return false;
#endif
  if (registration->builtin_code != BUILTIN_ADD && registration->builtin_code != BUILTIN_MUL) return false;
  const Tensor *a = &context->tensors[node->inputs->data[0]], *b = &context->tensors[node->inputs->data[1]];
  bool fits = same_shape(a, b) || elements(a) == 1 || elements(b) == 1;
  return fits && a->type == FLOAT32 && b->type == FLOAT32 && *(int *)node->builtin_data == 0;
}

static int delegate_prepare(Context *context, Delegate *base) {
  const Fake *fake = (Fake *)base;
  if (fake->options.refuse_model || gone(&fake->options)) {
    context->report(context, gone(&fake->options) ? "the device is gone" : "the delegate refuses the model");
    return ERROR;
  }
  Registration registration = {
    .init = kernel_init, .free = kernel_free, .prepare = kernel_prepare, .invoke = kernel_invoke,
    .custom_name = "test-delegate", .version = 1,
  };
  Ints *plan, *one = malloc(sizeof(Ints) + sizeof(int));
  if (context->execution_plan(context, &plan) != OK) return ERROR;
  int count = plan->size, status = OK, nodes[count];  // a copy: each replacement changes the plan
  memcpy(nodes, plan->data, sizeof nodes);
  one->size = 1;
  for (int i = 0; i < count && status == OK; i++) {
    Node *node;
    Registration *operator;
    status = context->node(context, nodes[i], &node, &operator);
    one->data[0] = nodes[i];
    // One operator a kernel: tensors inside a larger one would need memory of the delegate's own.
    if (status == OK && claims(context, node, operator)) status = context->replace(context, registration, one, base);
  }
  free(one);
  return status;
}

static int hold(const Options *o) {  // the device, for this process alone; -1: another one has it
  char path[352];
  snprintf(path, sizeof path, "%s/%s", o->lock_dir, *o->device ? o->device : "default");
  int file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
  return file >= 0 && fcntl(file, F_SETLK, &whole) == 0 ? file : -1;
}

static bool read_environment(Options *options) {
  const char *given = getenv("FAKE_EDGETPU");
  char text[2048], *rest = NULL;
  snprintf(text, sizeof text, "%s", given ? given : "");
  for (char *pair = strtok_r(text, ";", &rest); pair; pair = strtok_r(NULL, ";", &rest)) {
    char *equals = strchr(pair, '=');
    if (equals) *equals = 0;
    if (!equals || !set(options, pair, equals + 1)) return false;
  }
  return true;
}

Delegate *tflite_plugin_create_delegate(char **keys, char **values, size_t count, void (*report)(const char *)) {
  Fake *fake = calloc(1, sizeof *fake);
  Options *options = &fake->options;
  const char *error = NULL;
#ifdef EDGETPU
  const char *prefix = "device";
  if (!read_environment(options)) error = "FAKE_EDGETPU holds an unknown option";
#else
  const char *prefix = "";
  (void)read_environment;
#endif
  for (size_t i = 0; i < count; i++)
    if (strncmp(keys[i], prefix, strlen(prefix)) != 0 || !set(options, keys[i], values[i])) error = "unknown option";
  if (*options->only && strcmp(options->only, options->device) != 0) {  // the faults are another device's
    Options well = {0};
    memcpy(well.device, options->device, sizeof well.device);
    memcpy(well.count_file, options->count_file, sizeof well.count_file);
    memcpy(well.record_file, options->record_file, sizeof well.record_file);
    memcpy(well.lock_dir, options->lock_dir, sizeof well.lock_dir);
    *options = well;
  }
  char line[80];
  int length = snprintf(line, sizeof line, "device=%s\n", options->device);
  if (!error && *options->record_file) append(options->record_file, line, (size_t)length, NULL);
  if (options->crash_on_load) raise(SIGSEGV);
  if (!error && options->refuse) error = "refused as asked";
  if (!error && gone(options)) error = "no device";
  if (!error && *options->lock_dir && (fake->lock = hold(options)) < 0) error = "the device is busy";
  if (error) {
    report(error);
    free(fake);
    return NULL;
  }
  fake->base.prepare = delegate_prepare;
  // Without it LiteRT prepares the graph before it asks, and a custom operator that nobody else knows fails there.
  fake->base.flags = ALLOW_DYNAMIC_TENSORS;
  return &fake->base;
}

void tflite_plugin_destroy_delegate(Delegate *delegate) {
  Fake *fake = (Fake *)delegate;
  if (!fake) return;  // LiteRT's Python lets go of what was never made
  if (*fake->options.lock_dir) close(fake->lock);
  free(fake);
}
