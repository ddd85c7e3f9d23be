//! The CUDA driver, as far as an engine needs it beside ONNX Runtime: streams, pinned memory, copies and events. `libcuda.so.1` comes with
//! the GPU's driver and is looked for when it is first needed.
//!
//! long: the calls, each with its one safe wrapper, stay in one file.
//!
//! Enters: device numbers, addresses that ONNX Runtime gave. Leaves: copies done, times measured on the device. Never: a call on a thread
//! without the device's context; an address that is used after its owner is gone.
#![expect(unsafe_code, reason = "the driver is a C library")]

use std::ffi::{CStr, c_char, c_int, c_uint, c_ulonglong, c_void};
use std::ptr::null_mut;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use libloading::Library;

use super::library;

/// `CUresult`; 0 is success.
type Code = c_int;
/// An address on a device.
type Address = u64;
/// A handle: context, stream or event.
type Handle = *mut c_void;

const NAME: &str = "libcuda.so.1";
const NON_BLOCKING: c_uint = 1;
/// Whoever waits for such an event sleeps.
const BLOCKING_SYNC: c_uint = 1;
/// Work that takes longer is slept through: a thread that spins takes a core from those that answer. What is shorter would be over before the
/// thread slept.
const SLEEP_FROM: Duration = Duration::from_micros(400);
const NO_DEVICE: Code = 100;
/// `CU_STREAM_CAPTURE_MODE_RELAXED`: other threads may take memory meanwhile. Who waits for the whole device, as a session does while it is
/// made, must not: see `unrecorded` in `onnx/bound/graphs.rs`.
const RELAXED: c_int = 2;
const MAJOR: c_int = 75;
const MINOR: c_int = 76;
const INTEGRATED: c_int = 18;

/// Declares the calls that are looked up in the library.
macro_rules! calls {
    ($($field:ident = $symbol:literal ($($arg:ty),*);)+) => {
        struct Driver {
            $($field: unsafe extern "C" fn($($arg),*) -> Code,)+
            /// Keeps the calls valid.
            _library: Library,
        }

        impl Driver {
            fn of(library: Library) -> Result<Self, String> {
                $(
                    // SAFETY: the type is that of the driver API's documentation, the same in every version since CUDA 12.
                    let $field = unsafe { library.get::<unsafe extern "C" fn($($arg),*) -> Code>(concat!($symbol, "\0").as_bytes()) }
                        .map(|it| *it)
                        .map_err(|it| format!("{NAME} has no {}: {it}", $symbol))?;
                )+
                Ok(Self { $($field,)+ _library: library })
            }
        }
    };
}

calls! {
    init = "cuInit"(c_uint);
    version = "cuDriverGetVersion"(*mut c_int);
    count = "cuDeviceGetCount"(*mut c_int);
    device = "cuDeviceGet"(*mut c_int, c_int);
    name = "cuDeviceGetName"(*mut c_char, c_int, c_int);
    uuid = "cuDeviceGetUuid"(*mut [u8; 16], c_int);
    attribute = "cuDeviceGetAttribute"(*mut c_int, c_int, c_int);
    total_memory = "cuDeviceTotalMem_v2"(*mut usize, c_int);
    retain = "cuDevicePrimaryCtxRetain"(*mut Handle, c_int);
    set_current = "cuCtxSetCurrent"(Handle);
    memory = "cuMemGetInfo_v2"(*mut usize, *mut usize);
    stream_create = "cuStreamCreate"(*mut Handle, c_uint);
    stream_wait = "cuStreamSynchronize"(Handle);
    event_wait = "cuEventSynchronize"(Handle);
    stream_destroy = "cuStreamDestroy_v2"(Handle);
    begin_capture = "cuStreamBeginCapture_v2"(Handle, c_int);
    end_capture = "cuStreamEndCapture"(Handle, *mut Handle);
    graph_instantiate = "cuGraphInstantiateWithFlags"(*mut Handle, Handle, c_ulonglong);
    graph_launch = "cuGraphLaunch"(Handle, Handle);
    graph_destroy = "cuGraphDestroy"(Handle);
    graph_exec_destroy = "cuGraphExecDestroy"(Handle);
    event_create = "cuEventCreate"(*mut Handle, c_uint);
    event_record = "cuEventRecord"(Handle, Handle);
    event_elapsed = "cuEventElapsedTime"(*mut f32, Handle, Handle);
    event_destroy = "cuEventDestroy_v2"(Handle);
    host_alloc = "cuMemHostAlloc"(*mut *mut c_void, usize, c_uint);
    host_free = "cuMemFreeHost"(*mut c_void);
    to_device = "cuMemcpyHtoDAsync_v2"(Address, *const c_void, usize, Handle);
    to_host = "cuMemcpyDtoHAsync_v2"(*mut c_void, Address, usize, Handle);
    zero = "cuMemsetD8Async"(Address, u8, usize, Handle);
    error_name = "cuGetErrorName"(c_int, *mut *const c_char);
    error_text = "cuGetErrorString"(c_int, *mut *const c_char);
}

static DRIVER: OnceLock<Result<Driver, String>> = OnceLock::new();

/// The driver, or why there is none.
fn driver() -> Result<&'static Driver, String> {
    let loaded = DRIVER.get_or_init(|| {
        let library = library::open(NAME).map_err(|it| format!("there is no NVIDIA driver here: {it}"))?;
        let driver = Driver::of(library)?;
        // SAFETY: no arguments but a flag that must be 0.
        match unsafe { (driver.init)(0) } {
            0 => Ok(driver),
            NO_DEVICE => Err("the NVIDIA driver finds no CUDA device (CUDA_ERROR_NO_DEVICE)".to_owned()),
            code => Err(format!("the NVIDIA driver cannot be used: {}", driver.message(code))),
        }
    });
    loaded.as_ref().map_err(Clone::clone)
}

impl Driver {
    fn check(&self, what: &str, code: Code) -> Result<(), String> {
        if code == 0 { Ok(()) } else { Err(format!("{what}: {}", self.message(code))) }
    }

    fn message(&self, code: Code) -> String {
        let word = |of: unsafe extern "C" fn(c_int, *mut *const c_char) -> Code| {
            let mut text: *const c_char = std::ptr::null();
            // SAFETY: `text` is written with a static string of the driver's, or left null.
            let found = unsafe { of(code, &raw mut text) } == 0 && !text.is_null();
            // SAFETY: as above.
            if found { unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned() } else { format!("CUDA error {code}") }
        };
        format!("{} ({})", word(self.error_text), word(self.error_name))
    }
}

/// What the driver says of a GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Described {
    pub(super) name: String,
    pub(super) uuid: String,
    pub(super) memory_bytes: u64,
    pub(super) compute_capability: String,
    pub(super) integrated: bool,
}

/// The newest CUDA version that the driver can serve, and its GPUs.
pub(super) fn describe() -> Result<(String, Vec<Described>), String> {
    let driver = driver()?;
    let number = |what: &str, call: &dyn Fn(*mut c_int) -> Code| {
        let mut value = 0;
        driver.check(what, call(&raw mut value)).map(|()| value)
    };
    // SAFETY: each writes the one number that it is given the place of.
    let version = number("cuDriverGetVersion", &|it| unsafe { (driver.version)(it) })?;
    // SAFETY: as above.
    let count = number("cuDeviceGetCount", &|it| unsafe { (driver.count)(it) })?;
    let mut found = Vec::new();
    for ordinal in 0..count {
        // SAFETY: as above.
        let device = number("cuDeviceGet", &|it| unsafe { (driver.device)(it, ordinal) })?;
        // SAFETY: as above.
        let attribute = |which| number("cuDeviceGetAttribute", &|it| unsafe { (driver.attribute)(it, which, device) });
        let (mut name, mut uuid, mut bytes) = ([0; 256], [0; 16], 0);
        // SAFETY: 256 bytes are written at most, with their end.
        driver.check("cuDeviceGetName", unsafe { (driver.name)(name.as_mut_ptr(), 256, device) })?;
        // SAFETY: 16 bytes are written.
        driver.check("cuDeviceGetUuid", unsafe { (driver.uuid)(&raw mut uuid, device) })?;
        // SAFETY: one number is written.
        driver.check("cuDeviceTotalMem", unsafe { (driver.total_memory)(&raw mut bytes, device) })?;
        // SAFETY: the driver ended the text within the array.
        let name = unsafe { CStr::from_ptr(name.as_ptr()) }.to_string_lossy().into_owned();
        let compute_capability = format!("{}.{}", attribute(MAJOR)?, attribute(MINOR)?);
        let integrated = attribute(INTEGRATED)? != 0;
        found.push(Described { name, uuid: format_uuid(uuid), memory_bytes: bytes as u64, compute_capability, integrated });
    }
    Ok((format!("{}.{}", version / 1_000, version % 1_000 / 10), found))
}

/// As `nvidia-smi` and NVML write it.
fn format_uuid(bytes: [u8; 16]) -> String {
    let hex = hex::encode(bytes);
    format!("GPU-{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// A GPU's context, the one that ONNX Runtime uses too.
#[derive(Debug, Clone, Copy)]
pub(super) struct Gpu {
    pub(super) ordinal: u32,
    /// The handle; kept for the life of the process.
    context: usize,
}

impl Gpu {
    pub(super) fn open(ordinal: u32) -> Result<Self, String> {
        let driver = driver()?;
        let (mut device, mut context) = (0, null_mut());
        // SAFETY: one number is written.
        driver.check(&format!("GPU {ordinal}"), unsafe { (driver.device)(&raw mut device, ordinal as c_int) })?;
        // SAFETY: one handle is written. It is never released: engines come and go, the device stays.
        driver.check(&format!("the context of GPU {ordinal}"), unsafe { (driver.retain)(&raw mut context, device) })?;
        let gpu = Self { ordinal, context: context as usize };
        gpu.enter()?;
        Ok(gpu)
    }

    /// Makes it this thread's device.
    pub(super) fn enter(&self) -> Result<(), String> {
        let driver = driver()?;
        // SAFETY: the context was retained in `open` and is never released.
        driver.check("cuCtxSetCurrent", unsafe { (driver.set_current)(self.context as Handle) })
    }

    /// Bytes free and in all.
    pub(super) fn memory(&self) -> Result<(u64, u64), String> {
        self.enter()?;
        let driver = driver()?;
        let (mut free, mut total) = (0, 0);
        // SAFETY: two numbers are written.
        driver.check("cuMemGetInfo", unsafe { (driver.memory)(&raw mut free, &raw mut total) })?;
        Ok((free as u64, total as u64))
    }
}

/// Work on a device, in order.
#[derive(Debug)]
pub(super) struct Stream {
    gpu: Gpu,
    handle: usize,
    from: usize,
    to: usize,
}

impl Stream {
    pub(super) fn new(gpu: Gpu) -> Result<Arc<Self>, String> {
        gpu.enter()?;
        let driver = driver()?;
        let (mut handle, mut from, mut to) = (null_mut(), null_mut(), null_mut());
        // SAFETY: one handle is written by each.
        driver.check("cuStreamCreate", unsafe { (driver.stream_create)(&raw mut handle, NON_BLOCKING) })?;
        // SAFETY: as above.
        driver.check("cuEventCreate", unsafe { (driver.event_create)(&raw mut from, 0) })?;
        // SAFETY: as above.
        driver.check("cuEventCreate", unsafe { (driver.event_create)(&raw mut to, BLOCKING_SYNC) })?;
        Ok(Arc::new(Self { gpu, handle: handle as usize, from: from as usize, to: to as usize }))
    }

    /// What ONNX Runtime is told.
    pub(super) fn address(&self) -> usize {
        self.handle
    }

    /// Copies `count` elements from pinned memory to the device.
    pub(super) fn to_device(&self, from: &Pinned, range: std::ops::Range<usize>, to: Address) -> Result<(), String> {
        let driver = driver()?;
        let source = from.bytes(&range)?;
        // SAFETY: the range is within the pinned memory; `to` is a tensor of at least its length. Both outlive the wait that follows.
        driver.check("a copy to the GPU", unsafe { (driver.to_device)(to, source, range.len(), self.handle as Handle) })
    }

    /// Copies from the device to pinned memory.
    pub(super) fn to_host(&self, from: Address, to: &Pinned, range: std::ops::Range<usize>) -> Result<(), String> {
        let driver = driver()?;
        let target = to.bytes(&range)?;
        // SAFETY: as above.
        driver.check("a copy from the GPU", unsafe { (driver.to_host)(target, from, range.len(), self.handle as Handle) })
    }

    /// Sets memory of the device to zeros.
    pub(super) fn zero(&self, at: Address, bytes: usize) -> Result<(), String> {
        let driver = driver()?;
        // SAFETY: `at` is a tensor of at least `bytes`.
        driver.check("cuMemsetD8Async", unsafe { (driver.zero)(at, 0, bytes, self.handle as Handle) })
    }

    /// Marks where the time that [`Stream::wait`] gives begins.
    pub(super) fn begin(&self) -> Result<(), String> {
        self.gpu.enter()?;
        let driver = driver()?;
        // SAFETY: both handles are this stream's own.
        driver.check("cuEventRecord", unsafe { (driver.event_record)(self.from as Handle, self.handle as Handle) })
    }

    /// Waits until all is done, which takes about `expected`; the device's own time since [`Stream::begin`].
    pub(super) fn wait(&self, expected: Duration) -> Result<Duration, String> {
        let driver = driver()?;
        let mut ms = 0.0;
        // SAFETY: the handles are this stream's own; one number is written.
        unsafe {
            driver.check("cuEventRecord", (driver.event_record)(self.to as Handle, self.handle as Handle))?;
            let done =
                if expected > SLEEP_FROM { (driver.event_wait)(self.to as Handle) } else { (driver.stream_wait)(self.handle as Handle) };
            driver.check("the GPU's work", done)?;
            driver.check("cuEventElapsedTime", (driver.event_elapsed)(&raw mut ms, self.from as Handle, self.to as Handle))?;
        }
        Ok(Duration::try_from_secs_f32(ms / 1e3).unwrap_or_default())
    }
}

impl Stream {
    /// Records what `enqueue` puts on the stream, which does not run now. Whatever comes of it, the stream is as before.
    pub(super) fn capture(self: &Arc<Self>, enqueue: impl FnOnce() -> Result<(), String>) -> Result<Graph, String> {
        self.gpu.enter()?;
        let driver = driver()?;
        // SAFETY: the handle is this stream's own.
        driver.check("cuStreamBeginCapture", unsafe { (driver.begin_capture)(self.handle as Handle, RELAXED) })?;
        let enqueued = enqueue();
        let mut graph = null_mut();
        // SAFETY: as above; one handle is written, null where the capture broke.
        let ended = driver.check("cuStreamEndCapture", unsafe { (driver.end_capture)(self.handle as Handle, &raw mut graph) });
        if graph.is_null() {
            enqueued?;
            ended?;
            return Err("cuStreamEndCapture gave no graph".to_owned());
        }
        let mut exec = null_mut();
        let made = enqueued.and(ended).and_then(|()| {
            // SAFETY: the graph is valid; one handle is written.
            driver.check("cuGraphInstantiate", unsafe { (driver.graph_instantiate)(&raw mut exec, graph, 0) })
        });
        // SAFETY: nobody else has this handle; an instance does not need it any more.
        unsafe { (driver.graph_destroy)(graph) };
        made.map(|()| Graph { exec: exec as usize, stream: self.clone() })
    }
}

/// Work that was recorded once and is put on its stream by one call.
#[derive(Debug)]
pub(super) struct Graph {
    exec: usize,
    stream: Arc<Stream>,
}

impl Graph {
    /// Puts it on the stream that it was recorded on. Its addresses must still be there.
    pub(super) fn launch(&self) -> Result<(), String> {
        let driver = driver()?;
        // SAFETY: both handles live as long as this value.
        driver.check("cuGraphLaunch", unsafe { (driver.graph_launch)(self.exec as Handle, self.stream.handle as Handle) })
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        let Ok(driver) = driver() else { return };
        // A context that is broken cannot give anything back.
        drop(self.stream.gpu.enter());
        // SAFETY: the handle is this value's own; what runs of it goes on to its end.
        unsafe { (driver.graph_exec_destroy)(self.exec as Handle) };
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let Ok(driver) = driver() else { return };
        // A context that is broken cannot give anything back.
        drop(self.gpu.enter());
        // SAFETY: the handles are this stream's own, and whoever used it holds an `Arc` of it.
        unsafe {
            (driver.stream_wait)(self.handle as Handle);
            (driver.event_destroy)(self.from as Handle);
            (driver.event_destroy)(self.to as Handle);
            (driver.stream_destroy)(self.handle as Handle);
        }
    }
}

/// Memory of the host that the device copies from and to by itself.
#[derive(Debug)]
pub(super) struct Pinned {
    gpu: Gpu,
    address: usize,
    bytes: usize,
}

impl Pinned {
    /// `bytes` of zeros.
    pub(super) fn new(gpu: Gpu, bytes: usize) -> Result<Self, String> {
        gpu.enter()?;
        let driver = driver()?;
        let mut at = null_mut();
        // SAFETY: one address is written.
        driver.check("pinned memory", unsafe { (driver.host_alloc)(&raw mut at, bytes.max(8), 0) })?;
        // SAFETY: the driver gave so many bytes.
        unsafe { std::ptr::write_bytes(at.cast::<u8>(), 0, bytes.max(8)) };
        Ok(Self { gpu, address: at as usize, bytes })
    }

    /// The first `len` integers; the caller sees to it that no copy runs.
    pub(super) fn integers(&mut self, len: usize) -> &mut [i64] {
        let len = len.min(self.bytes / 8);
        // SAFETY: the driver's memory is aligned to pages, holds `bytes` bytes, was written, and is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.address as *mut i64, len) }
    }

    /// The first `len` floats.
    pub(super) fn floats(&self, len: usize) -> &[f32] {
        let len = len.min(self.bytes / 4);
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts(self.address as *const f32, len) }
    }

    fn bytes(&self, range: &std::ops::Range<usize>) -> Result<*mut c_void, String> {
        if range.end > self.bytes || range.start > range.end {
            return Err(format!("bytes {range:?} of {} pinned ones", self.bytes));
        }
        Ok((self.address + range.start) as *mut c_void)
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let Ok(driver) = driver() else { return };
        // As for a stream.
        drop(self.gpu.enter());
        // SAFETY: the address came from the driver and nobody has it any more.
        unsafe { (driver.host_free)(self.address as *mut c_void) };
    }
}
