//! The border: what Python's arrays are in memory, and slices of it. All `unsafe` code is here.
//!
//! A [`View`] is read from an object by the cheapest door that it has: torch's table of C functions
//! for DLPack, NumPy's array structure, or a DLPack capsule. Views become slices only in
//! [`with_slices`], after all of a call have been found not to overlap.

use std::cell::RefCell;
use std::ffi::{CStr, c_char, c_int, c_void};

use fused_adam::{Element, Lent, bf16, bytemuck, f16};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyCapsule, PyType};

/// An element type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    F32,
    F64,
    Bf16,
    F16,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::F32 => f32::NAME,
            Kind::F64 => f64::NAME,
            Kind::Bf16 => bf16::NAME,
            Kind::F16 => f16::NAME,
        }
    }

    pub fn bytes(self) -> usize {
        match self {
            Kind::F64 => 8,
            Kind::F32 => 4,
            Kind::Bf16 | Kind::F16 => 2,
        }
    }
}

/// The most dimensions of an array: as many as NumPy and torch allow.
const MOST_DIMENSIONS: usize = 64;

/// Some array's memory. It is valid for as long as the object that it was read from is kept.
#[derive(Clone, Copy)]
pub struct View {
    data: *mut u8,
    len: usize,
    pub kind: Kind,
    layout: Layout,
    writable: bool,
}

// SAFETY: a view is an address; what it points to is touched in `with_slices` alone, whose caller
// vouches for it.
unsafe impl Send for View {}

/// How the elements lie in memory.
#[derive(Clone, Copy, PartialEq)]
enum Layout {
    /// One after the other, the last dimension fastest.
    RowMajor,
    /// One after the other in another order, which this is a hash of.
    Dense(u64),
    /// With gaps.
    Strided,
    /// Several of them in one place.
    Repeated,
}

impl View {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn bytes(&self) -> usize {
        self.len * self.kind.bytes()
    }

    /// Whether its elements lie one after the other, in some order.
    pub fn is_dense(&self) -> bool {
        matches!(self.layout, Layout::RowMajor | Layout::Dense(_))
    }

    /// Whether its elements lie one after the other, the last dimension fastest.
    pub fn is_row_major(&self) -> bool {
        self.layout == Layout::RowMajor
    }

    /// Whether several elements are known to lie in one place.
    pub fn is_repeated(&self) -> bool {
        self.layout == Layout::Repeated
    }

    /// Whether elements of the same index lie in the same place of both.
    pub fn is_laid_out_as(&self, other: &View) -> bool {
        self.len == other.len && self.is_dense() && self.layout == other.layout
    }

    pub fn is_writable(&self) -> bool {
        self.writable
    }

    /// The number in a view of one element of `f32` or `f64`.
    pub fn number(&self) -> Option<f64> {
        if self.len != 1 {
            return None;
        }
        match self.kind {
            // SAFETY: it is one element of this type, aligned as all views are, whose owner is kept.
            Kind::F32 => Some(f64::from(unsafe { *self.data.cast::<f32>() })),
            // SAFETY: as above.
            Kind::F64 => Some(unsafe { *self.data.cast::<f64>() }),
            Kind::Bf16 | Kind::F16 => None,
        }
    }

    /// Changes the number in a view that has given one. Python's lock is held, as for reading it.
    pub fn set_number(&self, x: f64) {
        match self.kind {
            // SAFETY: `number` has found one element of this type.
            Kind::F32 => unsafe { *self.data.cast::<f32>() = x as f32 },
            // SAFETY: as above.
            Kind::F64 => unsafe { *self.data.cast::<f64>() = x },
            _ => {}
        }
    }

    fn new(
        data: *mut u8,
        kind: Kind,
        shape: &[i64],
        strides: Option<&[i64]>,
        writable: bool,
    ) -> PyResult<Self> {
        let len = shape.iter().try_fold(1_usize, |len, &n| {
            len.checked_mul(usize::try_from(n).ok()?).filter(|&len| len <= isize::MAX as usize / 8)
        });
        let len = len.ok_or_else(|| PyValueError::new_err("an array is too large"))?;
        if len > 0 && !(data as usize).is_multiple_of(kind.bytes()) {
            return Err(PyValueError::new_err(format!(
                "an array of {} lies at {data:p}, expected a multiple of {}",
                kind.name(),
                kind.bytes()
            )));
        }
        let layout = strides.map_or(Layout::RowMajor, |strides| layout(shape, strides));
        Ok(View { data, len, kind, layout, writable })
    }
}

/// How elements lie, by the strides of each dimension in elements.
fn layout(shape: &[i64], strides: &[i64]) -> Layout {
    let mut next = 1;
    if shape.iter().zip(strides).rev().all(|(&n, &stride)| {
        let fits = n == 1 || stride == next;
        next *= n.max(1);
        fits
    }) || shape.contains(&0)
    {
        return Layout::RowMajor;
    }
    if shape.iter().zip(strides).any(|(&n, &stride)| n > 1 && stride == 0) {
        return Layout::Repeated;
    }
    let mut order = [0; MOST_DIMENSIONS];
    let order = &mut order[..shape.len()];
    let mut dimensions = 0;
    for (i, &n) in shape.iter().enumerate() {
        if n != 1 {
            order[dimensions] = i;
            dimensions += 1;
        }
    }
    let order = &mut order[..dimensions];
    order.sort_unstable_by_key(|&i| strides[i]);
    let (mut next, mut hash) = (1, 0xCBF2_9CE4_8422_2325_u64);
    for &mut i in order {
        if strides[i] != next {
            return Layout::Strided;
        }
        next *= shape[i];
        for x in [i as u64, shape[i] as u64] {
            hash = (hash ^ x).wrapping_mul(0x0000_0100_0000_01B3);
        }
    }
    Layout::Dense(hash)
}

/// DLPack's description of a tensor.
#[repr(C)]
struct DlTensor {
    data: *mut c_void,
    device_type: i32,
    device_id: i32,
    ndim: i32,
    code: u8,
    bits: u8,
    lanes: u16,
    shape: *mut i64,
    strides: *mut i64,
    byte_offset: u64,
}

impl DlTensor {
    const EMPTY: Self = DlTensor {
        data: std::ptr::null_mut(),
        device_type: 0,
        device_id: 0,
        ndim: 0,
        code: 0,
        bits: 0,
        lanes: 0,
        shape: std::ptr::null_mut(),
        strides: std::ptr::null_mut(),
        byte_offset: 0,
    };

    fn view(&self, writable: bool) -> PyResult<View> {
        const CPU: i32 = 1;
        const PINNED: [i32; 2] = [3, 11];
        if self.device_type != CPU && !PINNED.contains(&self.device_type) {
            return Err(PyValueError::new_err(format!(
                "an array is on a device of DLPack's type {}, expected the CPU",
                self.device_type
            )));
        }
        let kind = match (self.code, self.bits, self.lanes) {
            (2, 32, 1) => Kind::F32,
            (2, 64, 1) => Kind::F64,
            (2, 16, 1) => Kind::F16,
            (4, 16, 1) => Kind::Bf16,
            _ => {
                return Err(PyTypeError::new_err(format!(
                    "an array is of DLPack's type {} with {} bits, expected f32, f64, bf16 or f16",
                    self.code, self.bits
                )));
            }
        };
        let dimensions = usize::try_from(self.ndim).unwrap_or(usize::MAX);
        if dimensions > MOST_DIMENSIONS {
            return Err(PyValueError::new_err(format!("an array has {} dimensions", self.ndim)));
        }
        // SAFETY: the producer has `ndim` numbers there, or none for a scalar.
        let (shape, strides) =
            unsafe { (numbers(self.shape, dimensions), numbers(self.strides, dimensions)) };
        let data = self.data.cast::<u8>().wrapping_add(self.byte_offset as usize);
        View::new(data, kind, shape.unwrap_or_default(), strides, writable)
    }
}

/// # Safety
///
/// There are `n` numbers at `at`, unless that is null.
unsafe fn numbers<'a>(at: *const i64, n: usize) -> Option<&'a [i64]> {
    if at.is_null() || n == 0 {
        return (n == 0).then_some(&[]);
    }
    // SAFETY: by the contract of this function.
    Some(unsafe { std::slice::from_raw_parts(at, n) })
}

/// The start of DLPack's table of C functions of a framework: what is needed of it.
#[repr(C)]
struct ExchangeTable {
    major: u32,
    minor: u32,
    older: *const ExchangeTable,
    allocate: *const c_void,
    managed_from_object: *const c_void,
    object_from_managed: *const c_void,
    view_object: Option<unsafe extern "C" fn(*mut c_void, *mut DlTensor) -> c_int>,
}

/// The C function by which a framework's tensors are looked at, without a detour by Python.
pub struct Exchange {
    view_object: unsafe extern "C" fn(*mut c_void, *mut DlTensor) -> c_int,
    of: Py<PyType>,
}

impl Exchange {
    /// Of a type of tensors, if it has one.
    pub fn of(of: &Bound<'_, PyType>) -> PyResult<Option<Self>> {
        let Ok(capsule) = of.getattr("__dlpack_c_exchange_api__") else { return Ok(None) };
        let table = capsule.cast::<PyCapsule>()?.pointer_checked(Some(c"dlpack_exchange_api"))?;
        // SAFETY: a capsule of this name holds a table that lives as long as the process, whose first
        // three fields are the same in every version.
        let table = unsafe { table.cast::<ExchangeTable>().as_ref() };
        if table.major != 1 {
            return Ok(None);
        }
        let of = of.clone().unbind();
        Ok(table.view_object.map(|view_object| Exchange { view_object, of }))
    }

    /// The memory of a tensor of this type, or of one that inherits from it.
    pub fn view(&self, tensor: &Bound<'_, PyAny>) -> PyResult<View> {
        let py = tensor.py();
        if !tensor.is_instance(self.of.bind(py))? {
            return Err(PyTypeError::new_err(format!(
                "expected a tensor, not {}",
                tensor.get_type().name()?
            )));
        }
        let mut described = DlTensor::EMPTY;
        // SAFETY: the object is of the type whose function this is, and Python's lock is held.
        if unsafe { (self.view_object)(tensor.as_ptr().cast(), &mut described) } != 0 {
            return Err(PyErr::take(py)
                .unwrap_or_else(|| PyValueError::new_err("a tensor has no memory to look at")));
        }
        described.view(true)
    }
}

/// NumPy's array structure.
#[repr(C)]
struct ArrayStruct {
    two: c_int,
    nd: c_int,
    typekind: c_char,
    itemsize: c_int,
    flags: c_int,
    shape: *const isize,
    strides: *const isize,
    data: *mut c_void,
}

/// An array's memory, with what has to be kept for as long as the view is used.
pub struct Held<'py> {
    pub view: View,
    keep: (Bound<'py, PyAny>, Option<Bound<'py, PyAny>>),
}

/// Looks at any array: of NumPy, of torch, or of whatever speaks DLPack or the buffer protocol.
pub fn held<'py>(array: &Bound<'py, PyAny>) -> PyResult<Held<'py>> {
    if let Ok(capsule) = array.getattr(pyo3::intern!(array.py(), "__array_struct__")) {
        let view = view_of_numpy(array, &capsule)?;
        return Ok(Held { view, keep: (array.clone(), Some(capsule)) });
    }
    if let Some(exchange) = Exchange::of(&array.get_type())? {
        let view = exchange.view(array)?;
        return Ok(Held { view, keep: (array.clone(), None) });
    }
    if array.hasattr("__dlpack__")? {
        let capsule = match array.call_method(
            "__dlpack__",
            (),
            Some(&{
                let version = pyo3::types::PyDict::new(array.py());
                version.set_item("max_version", (1, 0))?;
                version
            }),
        ) {
            Ok(capsule) => capsule,
            Err(_) => array.call_method0("__dlpack__")?,
        };
        let view = view_of_capsule(capsule.cast::<PyCapsule>()?)?;
        return Ok(Held { view, keep: (array.clone(), Some(capsule)) });
    }
    let py = array.py();
    let memory = py.import("builtins")?.getattr("memoryview")?.call1((array,)).map_err(|_| {
        let name = array.get_type().name().map(|name| name.to_string()).unwrap_or_default();
        PyTypeError::new_err(format!("expected an array, not {name}"))
    })?;
    held(&py.import("numpy")?.call_method1("asarray", (memory,))?)
}

fn view_of_numpy(array: &Bound<'_, PyAny>, capsule: &Bound<'_, PyAny>) -> PyResult<View> {
    const NOT_SWAPPED: c_int = 0x200;
    const WRITABLE: c_int = 0x400;
    let found = capsule.cast::<PyCapsule>()?.pointer_checked(None)?;
    // SAFETY: `__array_struct__` is a capsule of this structure, which lives as long as the capsule.
    let found = unsafe { found.cast::<ArrayStruct>().as_ref() };
    let dimensions = usize::try_from(found.nd).unwrap_or(usize::MAX);
    if found.two != 2 || dimensions > MOST_DIMENSIONS {
        return Err(PyValueError::new_err("an array does not describe itself as NumPy's do"));
    }
    let dtype = || -> PyResult<String> { array.getattr("dtype")?.str()?.extract() };
    let kind = match (found.typekind as u8, found.itemsize) {
        (b'f', 4) => Kind::F32,
        (b'f', 8) => Kind::F64,
        (b'f', 2) => Kind::F16,
        (b'V', 2) if dtype()? == "bfloat16" => Kind::Bf16,
        _ => {
            return Err(PyTypeError::new_err(format!(
                "an array is of type {}, expected float32, float64, bfloat16 or float16",
                dtype()?
            )));
        }
    };
    if found.flags & NOT_SWAPPED == 0 {
        return Err(PyTypeError::new_err("an array has its bytes swapped"));
    }
    let size = kind.bytes() as i64;
    let (mut shape, mut strides) = ([0; MOST_DIMENSIONS], [0; MOST_DIMENSIONS]);
    for i in 0..dimensions {
        // SAFETY: there are `nd` of each.
        let (n, stride) = unsafe { (*found.shape.add(i), *found.strides.add(i)) };
        // A stride that is no multiple of the elements' size is not that of neighbours.
        let stride = stride as i64;
        (shape[i], strides[i]) =
            (n as i64, if stride % size == 0 { stride / size } else { i64::MIN });
    }
    let writable = found.flags & WRITABLE != 0;
    let (shape, strides) = (&shape[..dimensions], &strides[..dimensions]);
    View::new(found.data.cast(), kind, shape, Some(strides), writable)
}

fn view_of_capsule(capsule: &Bound<'_, PyCapsule>) -> PyResult<View> {
    const VERSIONED: &CStr = c"dltensor_versioned";
    #[repr(C)]
    struct Versioned {
        major: u32,
        minor: u32,
        context: *mut c_void,
        delete: *const c_void,
        flags: u64,
        tensor: DlTensor,
    }
    // SAFETY: whatever the object is, the function only compares a name.
    if unsafe { ffi::PyCapsule_IsValid(capsule.as_ptr(), VERSIONED.as_ptr()) } == 1 {
        let found = capsule.pointer_checked(Some(VERSIONED))?.cast::<Versioned>();
        // SAFETY: a capsule of this name holds this structure, whose owner it is while it is not
        // renamed; the version comes first in all of them.
        let found = unsafe { found.as_ref() };
        if found.major != 1 {
            return Err(PyValueError::new_err(format!(
                "an array is given by version {} of DLPack, expected 1",
                found.major
            )));
        }
        return found.tensor.view(found.flags & 1 == 0);
    }
    let found = capsule.pointer_checked(Some(c"dltensor"))?.cast::<DlTensor>();
    // SAFETY: a capsule of this name holds a structure that begins with this one.
    unsafe { found.as_ref() }.view(true)
}

/// One tensor of a step.
pub struct Slot {
    pub rule: usize,
    pub t: u64,
    pub theta: View,
    pub grad: View,
    pub states: [Option<View>; 3],
    pub seed: u64,
}

thread_local! {
    /// What the last call on this thread was found to be free of overlaps with: most are given the
    /// same memory again and again.
    static CLEAR: RefCell<Vec<Range>> = const { RefCell::new(Vec::new()) };
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Range {
    start: usize,
    end: usize,
    written: bool,
}

/// Checks that nothing which is written overlaps with anything else.
fn check_overlap(slots: &[Slot]) -> PyResult<()> {
    let range = |view: &View, written| {
        let start = view.data as usize;
        Range { start, end: start + view.bytes(), written }
    };
    let ranges = || {
        slots.iter().flat_map(move |slot| {
            let states = slot.states.iter().flatten().map(move |state| range(state, true));
            [range(&slot.theta, true), range(&slot.grad, false)].into_iter().chain(states)
        })
    };
    CLEAR.with_borrow_mut(|clear| {
        if ranges().eq(clear.iter().copied()) {
            return Ok(());
        }
        clear.clear();
        let mut sorted: Vec<Range> = ranges().filter(|range| range.start < range.end).collect();
        sorted.sort_unstable();
        // The furthest end so far, of all and of what is written.
        let (mut end, mut written_end) = (0, 0);
        for range in &sorted {
            if range.start < if range.written { end } else { written_end } {
                return Err(PyValueError::new_err(format!(
                    "arrays overlap in memory at {:#x}, expected what is written to be apart",
                    range.start
                )));
            }
            end = end.max(range.end);
            if range.written {
                written_end = written_end.max(range.end);
            }
        }
        clear.extend(ranges());
        Ok(())
    })
}

/// Hands the slots to `work` as tensors of a step, after having found that nothing overlaps.
///
/// # Safety
///
/// The objects that the views were read from are kept until this returns, and nobody else changes
/// or reads their memory meanwhile.
pub unsafe fn with_slices<T>(
    slots: Vec<Slot>,
    work: impl FnOnce(&mut dyn ExactSizeIterator<Item = Lent<'_>>) -> T,
) -> PyResult<T> {
    check_overlap(&slots)?;
    // SAFETY: by the contract of this function, and no two of them overlap unless both are read.
    Ok(work(&mut slots.iter().map(|slot| unsafe { slot.lend() })))
}

impl Slot {
    /// # Safety
    ///
    /// The memory is valid for `'a`, and that which is written is nobody else's.
    unsafe fn lend<'a>(&self) -> Lent<'a> {
        // SAFETY: passed on.
        unsafe {
            match self.theta.kind {
                Kind::F32 => self.lend_theta::<f32>(),
                Kind::F64 => self.lend_theta::<f64>(),
                Kind::Bf16 => self.lend_theta::<bf16>(),
                Kind::F16 => self.lend_theta::<f16>(),
            }
        }
    }

    /// # Safety
    ///
    /// As for [`lend`](Self::lend); θ is of type `T`.
    unsafe fn lend_theta<'a, T: Element>(&self) -> Lent<'a> {
        let (rule, t) = (self.rule, self.t);
        // SAFETY: passed on; each is of the type that its kind says.
        unsafe {
            let theta = self.theta.slice_mut::<T>();
            let mut lent = match self.grad.kind {
                Kind::F32 => Lent::new(rule, t, theta, self.grad.slice::<f32>()),
                Kind::F64 => Lent::new(rule, t, theta, self.grad.slice::<f64>()),
                Kind::Bf16 => Lent::new(rule, t, theta, self.grad.slice::<bf16>()),
                Kind::F16 => Lent::new(rule, t, theta, self.grad.slice::<f16>()),
            };
            for state in self.states.iter().flatten() {
                lent = match state.kind {
                    Kind::F32 => lent.state(state.slice_mut::<f32>()),
                    Kind::F64 => lent.state(state.slice_mut::<f64>()),
                    Kind::Bf16 => lent.state(state.slice_mut::<bf16>()),
                    Kind::F16 => lent.state(state.slice_mut::<f16>()),
                };
            }
            lent.seed(self.seed)
        }
    }
}

impl View {
    /// # Safety
    ///
    /// The memory is valid for `'a`, is of type `E`, and is nobody else's.
    unsafe fn slice_mut<'a, E: bytemuck::Pod>(&self) -> &'a mut [E] {
        if self.len == 0 {
            return &mut [];
        }
        // SAFETY: by the contract; the alignment and the size were checked when it was looked at.
        unsafe { std::slice::from_raw_parts_mut(self.data.cast(), self.len) }
    }

    /// # Safety
    ///
    /// The memory is valid for `'a`, is of type `E`, and is not written meanwhile.
    unsafe fn slice<'a, E: bytemuck::Pod>(&self) -> &'a [E] {
        if self.len == 0 {
            return &[];
        }
        // SAFETY: by the contract; the alignment and the size were checked when it was looked at.
        unsafe { std::slice::from_raw_parts(self.data.cast(), self.len) }
    }
}

impl<'py> Held<'py> {
    pub fn py(&self) -> Python<'py> {
        self.keep.0.py()
    }
}
