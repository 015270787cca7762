//! Reads a view from an object, with DLPack or NumPy's array structure.

use std::ffi::{CStr, c_char, c_int, c_void};

use pyo3::exceptions::{PyRuntimeError, PyTypeError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyCapsule, PyType};

use super::view::{Kind, MOST_DIMENSIONS, View};

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
            (1, 8, 1) => Kind::U8,
            (0 | 1, 16, 1) => Kind::U16,
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
        // SAFETY: the producer stores `ndim` numbers there, or none for a scalar.
        let (shape, strides) =
            unsafe { (numbers(self.shape, dimensions), numbers(self.strides, dimensions)) };
        // A null pointer must stay null, whatever the offset.
        let offset = if self.data.is_null() { 0 } else { self.byte_offset as usize };
        let data = self.data.cast::<u8>().wrapping_add(offset);
        View::new(data, kind, shape.unwrap_or_default(), strides, writable)
    }
}

/// # Safety
///
/// There are `n` numbers at `at`, unless it is null.
unsafe fn numbers<'a>(at: *const i64, n: usize) -> Option<&'a [i64]> {
    if at.is_null() || n == 0 {
        return (n == 0).then_some(&[]);
    }
    // SAFETY: by the contract of this function.
    Some(unsafe { std::slice::from_raw_parts(at, n) })
}

/// The start of DLPack's table of C functions of a framework, with the fields that are used here.
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

/// The C function that reads a framework's tensors without calling Python.
pub struct Exchange {
    view_object: unsafe extern "C" fn(*mut c_void, *mut DlTensor) -> c_int,
    of: Py<PyType>,
}

impl Exchange {
    /// The function for a type of tensors, if the type has one.
    pub fn of(of: &Bound<'_, PyType>) -> PyResult<Option<Self>> {
        let Ok(capsule) = of.getattr("__dlpack_c_exchange_api__") else { return Ok(None) };
        let table = capsule.cast::<PyCapsule>()?.pointer_checked(Some(c"dlpack_exchange_api"))?;
        // SAFETY: a capsule with this name holds a table that lives as long as the process. Its
        // first three fields are the same in every version.
        let table = unsafe { table.cast::<ExchangeTable>().as_ref() };
        if table.major != 1 {
            return Ok(None);
        }
        let of = of.clone().unbind();
        Ok(table.view_object.map(|view_object| Exchange { view_object, of }))
    }

    /// The memory of a tensor of floats, of this type or a subtype.
    pub fn view(&self, tensor: &Bound<'_, PyAny>) -> PyResult<View> {
        self.view_of_any(tensor)?.of_floats()
    }

    /// The memory of a tensor of floats, or of bytes, which a state may be.
    pub fn view_of_state(&self, tensor: &Bound<'_, PyAny>) -> PyResult<View> {
        self.view_of_any(tensor)?.of_state()
    }

    /// The memory of a tensor of any [`Kind`].
    pub fn view_of_any(&self, tensor: &Bound<'_, PyAny>) -> PyResult<View> {
        let py = tensor.py();
        let of = self.of.bind(py).as_type_ptr();
        // SAFETY: both are types. (`isinstance` would trust an object's own `__class__`.)
        if unsafe { ffi::PyType_IsSubtype(tensor.get_type().as_type_ptr(), of) } == 0 {
            return Err(PyTypeError::new_err(format!(
                "expected a tensor, not {}",
                tensor.get_type().name()?
            )));
        }
        let mut described = DlTensor::EMPTY;
        // SAFETY: the object has the type of this function, and the GIL is held.
        if unsafe { (self.view_object)(tensor.as_ptr().cast(), &mut described) } != 0 {
            return Err(PyErr::take(py)
                .unwrap_or_else(|| PyValueError::new_err("a tensor has no memory to look at")));
        }
        if (described.data as usize) < LOW && !has_memory(tensor) {
            described.data = std::ptr::null_mut();
        }
        described.view(true)
    }
}

/// If a storage has no memory, torch reports the tensor's offset as its address, which is a low
/// number. For an address below this limit, the tensor is asked whether it has memory. The limit
/// covers offsets of up to a tebibyte; on most systems memory has higher addresses.
const LOW: usize = 1 << 40;

/// Whether a tensor has memory, if it can tell.
#[cold]
fn has_memory(tensor: &Bound<'_, PyAny>) -> bool {
    let Ok(storage) = tensor.getattr("untyped_storage") else { return true };
    let address = storage.call0().and_then(|storage| storage.call_method0("data_ptr"));
    address.and_then(|address| address.extract()).is_ok_and(|address: usize| address != 0)
}

/// An error for torch's views with the negative bit: the sign is not applied to their memory.
pub fn refuse_negated(what: impl Fn() -> String, tensor: &Bound<'_, PyAny>) -> PyResult<()> {
    let Ok(is_neg) = tensor.getattr(pyo3::intern!(tensor.py(), "is_neg")) else { return Ok(()) };
    if is_neg.call0()?.is_truthy()? {
        return Err(PyRuntimeError::new_err(format!(
            "{} is a negated view, expected one after `resolve_neg`",
            what()
        )));
    }
    Ok(())
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

/// An array's memory, and the object that must stay alive while the view is used.
pub struct OwnedView<'py> {
    pub view: View,
    keep: (Bound<'py, PyAny>, Option<Bound<'py, PyAny>>),
}

/// Reads any array: of NumPy, of torch, or of a library that supports DLPack or the buffer
/// protocol. Its elements are of any [`Kind`].
pub fn held<'py>(array: &Bound<'py, PyAny>) -> PyResult<OwnedView<'py>> {
    if let Ok(capsule) = array.getattr(pyo3::intern!(array.py(), "__array_struct__")) {
        static GENERIC: PyOnceLock<Py<PyType>> = PyOnceLock::new();
        if array.is_instance(GENERIC.import(array.py(), "numpy", "generic")?)? {
            let name = array.get_type().name()?;
            return Err(PyTypeError::new_err(format!("expected an array, not the number {name}")));
        }
        let view = view_of_numpy(array, &capsule)?;
        return Ok(OwnedView { view, keep: (array.clone(), Some(capsule)) });
    }
    if let Some(exchange) = Exchange::of(&array.get_type())? {
        let view = exchange.view_of_any(array)?;
        refuse_negated(|| "an array".to_owned(), array)?;
        return Ok(OwnedView { view, keep: (array.clone(), None) });
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
            // From DLPack before it had versions.
            Err(error) if error.is_instance_of::<PyTypeError>(array.py()) => {
                array.call_method0("__dlpack__")?
            }
            Err(error) => return Err(error),
        };
        let view = view_of_capsule(capsule.cast::<PyCapsule>()?)?;
        return Ok(OwnedView { view, keep: (array.clone(), Some(capsule)) });
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
    // SAFETY: `__array_struct__` is a capsule with this structure, which lives as long as the
    // capsule.
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
        (b'u', 1) => Kind::U8,
        (b'u', 2) => Kind::U16,
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
        // A stride that is not a multiple of the element size cannot be contiguous.
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
    // SAFETY: the function only compares a name, for any object.
    if unsafe { ffi::PyCapsule_IsValid(capsule.as_ptr(), VERSIONED.as_ptr()) } == 1 {
        let found = capsule.pointer_checked(Some(VERSIONED))?.cast::<Versioned>();
        // SAFETY: a capsule with this name holds this structure, and owns it until the capsule is
        // renamed. The version comes first in all structures.
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
    // SAFETY: a capsule with this name holds a structure that begins with this one.
    unsafe { found.as_ref() }.view(true)
}

impl<'py> OwnedView<'py> {
    pub fn py(&self) -> Python<'py> {
        self.keep.0.py()
    }
}
