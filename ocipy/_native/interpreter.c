/*
 * Python for one command. The launcher executes it instead of python3.X where it was built: the same libpython, but at first only its
 * core (PEP 587, multi-phase initialization): no codecs, no standard streams, no search of directories, which are half of Python's
 * start-up, and which no common verb needs. boot.py, which is compiled in, calls finish() when something does.
 *
 *   argv: itself SITE… -- ARGV…, as the launcher gives them to a python3.X after its own flags
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <marshal.h>
#include <signal.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "boot.h" /* by setup.py: BOOT_CODE, PLACES: marshalled; MAGIC of bytecode; PYTHON, PYTHON_PREFIX, STDLIB, DYNLOAD: paths */

static int die(const char *what, const char *why)
{
	char text[512];
	int size = snprintf(text, sizeof(text), "ocipy: %s: %s\n", what, why ? why : "unknown error");

	if (size > 0 && write(2, text, (size_t)size < sizeof(text) ? (size_t)size : sizeof(text) - 1) < 0)
		return 1; /* nowhere to say so */
	return 1;
}

/* When main() began, where the launcher asks for it: CLOCK_MONOTONIC in nanoseconds. */
static long long began;

static void note_begin(void)
{
	struct timespec time;

	if (getenv("OCIPY_TRACE") && clock_gettime(CLOCK_MONOTONIC, &time) == 0)
		began = time.tv_sec * 1000000000LL + time.tv_nsec;
}

static volatile sig_atomic_t interrupted;

/* Once: what it ends is about to clean up. */
static int interrupt(void *nothing)
{
	(void)nothing;
	signal(SIGINT, SIG_IGN);
	PyErr_SetNone(PyExc_KeyboardInterrupt);
	return -1;
}

/* Python's own handler comes with the rest of it, which may be never. A second call is never added: Python takes the first out
 * under the lock that adding one takes, so the handler would wait for ever. */
static void on_interrupt(int number)
{
	(void)number;
	if (!interrupted) {
		interrupted = 1;
		Py_AddPendingCall(interrupt, NULL);
	}
}

static PyObject *finish(PyObject *module, PyObject *nothing)
{
	PyStatus status = _Py_InitializeMain();

	(void)module;
	(void)nothing;
	if (PyStatus_Exception(status)) {
		PyErr_SetString(PyExc_RuntimeError, status.err_msg ? status.err_msg : "Python cannot be initialized");
		return NULL;
	}
	Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
	{"finish", finish, METH_NOARGS, "Initialize the rest of Python: codecs, streams, the import of files."},
	{NULL, NULL, 0, NULL},
};
static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_interpreter", NULL, -1, methods, NULL, NULL, NULL, NULL};

static PyObject *make_module(void)
{
	PyObject *module = PyModule_Create(&definition);

	PyObject *magic = PyBytes_FromStringAndSize((const char *)MAGIC, sizeof(MAGIC));
	PyObject *places = PyMarshal_ReadObjectFromString((const char *)PLACES, sizeof(PLACES));

	if (module && (PyModule_AddObject(module, "BEGAN", PyLong_FromLongLong(began)) < 0 ||
		       PyModule_AddObject(module, "MAGIC", magic) < 0 ||
		       PyModule_AddObject(module, "PLACES", places) < 0))
		Py_CLEAR(module);
	return module;
}

static PyStatus set_text(PyConfig *config, wchar_t **field, const char *text)
{
	return PyConfig_SetBytesString(config, field, text);
}

static PyStatus add_path(PyConfig *config, const char *path)
{
	wchar_t *wide = Py_DecodeLocale(path, NULL);
	PyStatus status = wide ? PyWideStringList_Append(&config->module_search_paths, wide) : PyStatus_NoMemory();

	PyMem_RawFree(wide);
	return status;
}

/* Everything that getpath.py would look for is said. */
static PyStatus configure(PyConfig *config, char **sites, int site_count, char **argv, int argc)
{
	wchar_t **prefixes[] = {&config->prefix, &config->base_prefix, &config->exec_prefix, &config->base_exec_prefix};
	PyStatus status = set_text(config, &config->executable, PYTHON);

	config->site_import = 0;
	config->write_bytecode = 0;
	config->install_signal_handlers = 0; /* finish() may come after ours are there */
	config->parse_argv = 0;
	config->module_search_paths_set = 1;
	config->_init_main = 0;
	if (!PyStatus_Exception(status))
		status = set_text(config, &config->base_executable, PYTHON);
	for (size_t i = 0; i < sizeof(prefixes) / sizeof(prefixes[0]) && !PyStatus_Exception(status); i++)
		status = set_text(config, prefixes[i], PYTHON_PREFIX);
	if (!PyStatus_Exception(status))
		status = set_text(config, &config->stdlib_dir, STDLIB);
	if (!PyStatus_Exception(status))
		status = add_path(config, STDLIB);
	if (!PyStatus_Exception(status))
		status = add_path(config, DYNLOAD);
	for (int i = 0; i < site_count && !PyStatus_Exception(status); i++)
		status = add_path(config, sites[i]);
	if (!PyStatus_Exception(status))
		status = PyConfig_SetBytesArgv(config, argc, argv);
	return status;
}

static PyStatus start(char **sites, int site_count, char **argv, int argc)
{
	PyPreConfig before;
	PyConfig config;
	PyStatus status;

	PyPreConfig_InitIsolatedConfig(&before);
	before.utf8_mode = 1;
	status = Py_PreInitialize(&before);
	if (PyStatus_Exception(status))
		return status;
	PyImport_AppendInittab("_interpreter", make_module);
	PyConfig_InitIsolatedConfig(&config);
	status = configure(&config, sites, site_count, argv, argc);
	if (!PyStatus_Exception(status))
		status = Py_InitializeFromConfig(&config);
	PyConfig_Clear(&config);
	return status;
}

static PyObject *list_of(char *const *first, int count, char *const *second, int second_count)
{
	PyObject *list = PyList_New(count + second_count);

	for (int i = 0; list && i < count + second_count; i++) {
		PyObject *text = PyUnicode_DecodeFSDefault(i < count ? first[i] : second[i - count]);
		if (!text)
			Py_CLEAR(list);
		else
			PyList_SET_ITEM(list, i, text);
	}
	return list;
}

/* boot.py as the module ocipy.cli.boot, and its boot(argv[1:]), which does not return. */
static void boot(const char *site, PyObject *arguments)
{
	PyObject *module = PyImport_AddModule("ocipy.cli.boot");
	PyObject *names = module ? PyModule_GetDict(module) : NULL;
	PyObject *file = PyUnicode_FromFormat("%s/ocipy/cli/boot.py", site);
	PyObject *code = PyMarshal_ReadObjectFromString((const char *)BOOT_CODE, sizeof(BOOT_CODE));

	if (!names || !file || !code || PyDict_SetItemString(names, "__file__", file) < 0 ||
	    PyDict_SetItemString(names, "__builtins__", PyEval_GetBuiltins()) < 0 || !PyEval_EvalCode(code, names, names))
		return;
	PyObject_CallOneArg(PyDict_GetItemString(names, "boot"), arguments);
}

int main(int argc, char **argv)
{
	static char *const library[] = {STDLIB, DYNLOAD};
	int sites = 1;

	note_begin();
	while (sites < argc && strcmp(argv[sites], "--") != 0)
		sites++;
	if (sites < 2 || sites + 1 >= argc)
		return die("this is no command", "call ocipy");
	struct sigaction ours = {.sa_handler = on_interrupt}, before; /* without SA_RESTART: whoever waits is to hear of it */

	PyStatus status = start(argv + 1, sites - 1, argv + sites + 1, argc - sites - 1);
	if (PyStatus_Exception(status))
		return die("Python does not start", status.err_msg);
	if (sigaction(SIGINT, &ours, &before) == 0 && before.sa_handler == SIG_IGN)
		sigaction(SIGINT, &before, NULL); /* a command in the background of a script: Ctrl-C is not for it */
	PyObject *path = list_of(library, 2, argv + 1, sites - 1);
	PyObject *words = list_of(argv + sites + 1, argc - sites - 1, NULL, 0);
	PyObject *arguments = words ? PyList_GetSlice(words, 1, argc) : NULL;
	if (path && arguments && PySys_SetObject("path", path) == 0 && PySys_SetObject("argv", words) == 0)
		boot(argv[1], arguments);
	if (PyErr_ExceptionMatches(PyExc_KeyboardInterrupt))
		return 130; /* while it told of something else */
	return die("Python does not start: reinstall ocipy", PyErr_Occurred() ? ((PyTypeObject *)PyErr_Occurred())->tp_name : NULL);
}
