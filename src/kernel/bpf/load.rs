//! The program and its tables in the kernel.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::AsFd;

use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray};
use aya::programs::{ProgramFd, ProgramInfo, SchedClassifier, loaded_programs};
use aya::{Btf, Ebpf, EbpfLoader};

use super::error::{BpfError, causes};
use super::program::Program;
use super::{OBJECT, own_version};
use crate::model::second_chance::{
    Count, Counts, ENDPOINT, ENDPOINT_KEY, LAST, PAIR_KEY, PRESENT_VALUE, Pairs, Present, TableWrite, Tables, VIP_KEY,
    Version, VipNames, changes, endpoint, endpoint_key, last, of_endpoint, of_endpoint_key, of_last, of_vip_key,
    vip_key,
};
use crate::plan::filter::ObservedFilter;

const ENDPOINTS: &str = "endpoints";
const VIPS: &str = "vips";
const PRESENT: &str = "present";
const ANY_PRESENT: &str = "any_present";
const COUNTS: &str = "counts";
const PAIRS: &str = "pairs";

/// The two programs of the object: whoever knows the kernel's types can tell half-open connections apart.
const WITH_TYPES: &str = "second_chance";
const WITHOUT_TYPES: &str = "second_chance_0";

/// The tables of a program.
type Maps = [Map; 6];

/// How many entries the tables have room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// VIPs that have a local endpoint.
    pub vips: u32,
    /// Endpoints of these VIPs, wherever they are: one entry per VIP and name.
    pub endpoints: u32,
}

impl Sizes {
    /// What a small node takes: 16 KiB for `endpoints`, 4 KiB each for `vips` and `present`, and 100 bytes per entry; for a
    /// minute after a change of owners 1 KiB more per VIP.
    pub const LEAST: Sizes = Sizes { vips: 256, endpoints: 1024 };

    /// Room for twice what the tables hold, or more.
    pub fn holding(tables: &Tables) -> Sizes {
        let wanted = |count: usize, least: u32| {
            u32::try_from(count.saturating_mul(2)).unwrap_or(u32::MAX / 2).min(1 << 30).next_power_of_two().max(least)
        };
        Sizes {
            vips: wanted(tables.len(), Self::LEAST.vips),
            endpoints: wanted(tables.values().map(|vip| vip.endpoints.len()).sum(), Self::LEAST.endpoints),
        }
    }

    /// Whether tables of this size can hold these entries.
    pub fn can_hold(self, tables: &Tables) -> bool {
        let fits = |count: usize, limit: u32| u32::try_from(count).is_ok_and(|count| count <= limit);
        fits(tables.len(), self.vips) && fits(tables.values().map(|vip| vip.endpoints.len()).sum(), self.endpoints)
    }
}

/// The types of this kernel (BTF), or why it tells none. They are megabytes, and half of the time of loading.
pub struct Types(Result<Btf, String>);

impl Types {
    /// Reads them.
    pub fn of_kernel() -> Types {
        Types(Btf::from_sys_fs().map_err(|error| causes(&error)))
    }
}

/// The program, loaded, with its tables. It stays in the kernel while this value lives or a filter holds it.
pub struct SecondChance {
    program: Program,
    sizes: Sizes,
    endpoints: HashMap<MapData, [u8; ENDPOINT_KEY], [u8; ENDPOINT]>,
    vips: HashMap<MapData, [u8; VIP_KEY], [u8; LAST]>,
    present: HashMap<MapData, [u8; VIP_KEY], [u8; PRESENT_VALUE]>,
    any_present: Array<MapData, u32>,
    counts: PerCpuArray<MapData, u64>,
    pairs: HashMap<MapData, [u8; PAIR_KEY], u64>,
    /// What the tables hold: nobody else writes them.
    tables: Tables,
}

impl SecondChance {
    /// Loads the embedded program, with empty tables. 100 to 200 ms.
    ///
    /// # Errors
    /// [`BpfError::Load`]
    pub fn load(sizes: Sizes) -> Result<Self, BpfError> {
        Self::load_object(OBJECT, &Types::of_kernel(), sizes)
    }

    /// Loads another object with the same programs and tables, or for a kernel whose types are known already.
    ///
    /// # Errors
    /// [`BpfError::Load`]
    pub fn load_object(object: &[u8], types: &Types, sizes: Sizes) -> Result<Self, BpfError> {
        let types = types.0.as_ref().map_err(Clone::clone);
        let typed = types.and_then(|btf| Self::load_program(object, sizes, Some(btf)));
        typed.or_else(|first| {
            tracing::debug!(error = first, "half-open connections cannot be told apart");
            Self::load_untyped(object, sizes).map_err(|second| match second {
                BpfError::Load(second) => BpfError::Load(format!("{second}; with the kernel's types: {first}")),
                other => other,
            })
        })
    }

    /// Loads the program for kernels without type information (BTF).
    ///
    /// # Errors
    /// [`BpfError::Load`]
    pub fn load_untyped(object: &[u8], sizes: Sizes) -> Result<Self, BpfError> {
        Self::load_program(object, sizes, None).map_err(BpfError::Load)
    }

    fn load_program(object: &[u8], sizes: Sizes, types: Option<&Btf>) -> Result<Self, String> {
        let name = if types.is_some() { WITH_TYPES } else { WITHOUT_TYPES };
        let mut ebpf = EbpfLoader::new()
            .btf(types)
            .map_max_entries(ENDPOINTS, sizes.endpoints)
            .map_max_entries(VIPS, sizes.vips)
            .map_max_entries(PRESENT, sizes.vips)
            .load(object)
            .map_err(|error| causes(&error))?;
        let program = ebpf.program_mut(name).ok_or_else(|| format!("there is no program {name}"))?;
        let program: &mut SchedClassifier = program.try_into().map_err(|error| causes(&error))?;
        program.load().map_err(|error| causes(&error))?;
        let fd = program.fd().and_then(|fd| Ok(fd.try_clone()?)).map_err(|error| causes(&error))?;
        let id = program.info().map_err(|error| causes(&error))?.id();
        let mut map = |name: &str| take(&mut ebpf, name);
        let maps = [map(ENDPOINTS)?, map(VIPS)?, map(PRESENT)?, map(ANY_PRESENT)?, map(COUNTS)?, map(PAIRS)?];
        Self::assemble(fd, id, Version::of(object), maps).map_err(|error| causes(&error))
    }

    /// The program that a filter holds, with what is in its tables; `None` if it is not of this version.
    ///
    /// # Errors
    /// [`BpfError::Find`], [`BpfError::Table`]
    pub fn open(filter: &ObservedFilter) -> Result<Option<Self>, BpfError> {
        if filter.version != Some(own_version()) {
            return Ok(None);
        }
        let mut found = Self::find(filter.program, own_version())?;
        found.tables = found.read()?;
        Ok(Some(found))
    }

    /// The program of this id, whose tables have not been read.
    fn find(id: u32, version: Version) -> Result<Self, BpfError> {
        let not_found = |text: String| BpfError::Find { id, text };
        let info = loaded_programs().filter_map(Result::ok).find(|program| program.id() == id);
        let info = info.ok_or_else(|| not_found("it is not there".to_owned()))?;
        let maps = maps_of(&info).map_err(not_found)?;
        let fd = info.fd().map_err(|error| not_found(causes(&error)))?;
        Self::assemble(fd, id, version, maps).map_err(|error| not_found(causes(&error)))
    }

    fn assemble(program: ProgramFd, id: u32, version: Version, maps: Maps) -> Result<Self, MapError> {
        let [endpoints, vips, present, any_present, counts, pairs] = maps;
        let fd = program.as_fd().try_clone_to_owned().map_err(MapError::IoError)?;
        Ok(SecondChance {
            program: Program::new(fd, id, version),
            sizes: Sizes { endpoints: limit(&endpoints)?, vips: limit(&vips)? },
            endpoints: endpoints.try_into()?,
            vips: vips.try_into()?,
            present: present.try_into()?,
            any_present: any_present.try_into()?,
            counts: counts.try_into()?,
            pairs: pairs.try_into()?,
            tables: Tables::new(),
        })
    }

    /// The kernel's id of the program, which a filter that holds it tells.
    pub fn id(&self) -> u32 {
        self.program.id()
    }

    /// The version of the program.
    pub fn version(&self) -> Version {
        self.program.version()
    }

    /// How much the tables have room for.
    pub fn sizes(&self) -> Sizes {
        self.sizes
    }

    /// What the tables hold.
    pub fn tables(&self) -> &Tables {
        &self.tables
    }

    /// What it takes to attach the program.
    pub fn handle(&self) -> Program {
        self.program.clone()
    }

    /// Brings the tables to this content, VIP by VIP.
    ///
    /// # Errors
    /// [`BpfError::Full`], [`BpfError::Table`]; the other VIPs are as before or as wanted.
    pub fn write(&mut self, wanted: &Tables) -> Result<(), BpfError> {
        let gone: Vec<IpAddr> = self.tables.keys().filter(|vip| !wanted.contains_key(vip)).copied().collect();
        gone.into_iter().try_for_each(|vip| self.write_vip(vip, None))?;
        wanted.iter().try_for_each(|(vip, names)| self.write_vip(*vip, Some(names)))
    }

    /// Brings the entries of one VIP to this content; `None` removes them.
    ///
    /// # Errors
    /// [`BpfError::Full`], [`BpfError::Table`]; what was written before the error stays.
    pub fn write_vip(&mut self, vip: IpAddr, names: Option<&VipNames>) -> Result<(), BpfError> {
        for write in changes(self.tables.get(&vip), names) {
            if let Err(error) = self.write_entry(vip, write) {
                self.tables = self.read()?;
                return Err(error);
            }
        }
        match names {
            Some(names) => self.tables.insert(vip, names.clone()),
            None => self.tables.remove(&vip),
        };
        Ok(())
    }

    fn write_entry(&mut self, vip: IpAddr, write: TableWrite) -> Result<(), BpfError> {
        match write {
            TableWrite::Endpoint(name, addresses) => {
                let result = self.endpoints.insert(endpoint_key(vip, name), endpoint(addresses), 0);
                result.map_err(|error| BpfError::table(ENDPOINTS, self.sizes.endpoints, &error))
            }
            TableWrite::NoEndpoint(name) => {
                let result = self.endpoints.remove(&endpoint_key(vip, name));
                gone(result.map_err(|error| BpfError::table(ENDPOINTS, self.sizes.endpoints, &error)))
            }
            TableWrite::Last(name) => {
                let result = self.vips.insert(vip_key(vip), last(name), 0);
                result.map_err(|error| BpfError::table(VIPS, self.sizes.vips, &error))
            }
            TableWrite::NoLast => {
                let result = self.vips.remove(&vip_key(vip));
                gone(result.map_err(|error| BpfError::table(VIPS, self.sizes.vips, &error)))
            }
            TableWrite::Present(present) => {
                self.note_any_present(true)?;
                let result = self.present.insert(vip_key(vip), present.encode(), 0);
                result.map_err(|error| BpfError::table(PRESENT, self.sizes.vips, &error))
            }
            TableWrite::NoPresent => {
                let result = self.present.remove(&vip_key(vip));
                gone(result.map_err(|error| BpfError::table(PRESENT, self.sizes.vips, &error)))?;
                self.note_any_present(self.tables.iter().any(|(other, names)| *other != vip && names.present.is_some()))
            }
        }
    }

    /// Whether the program looks into `present` for packets without a list.
    fn note_any_present(&mut self, any: bool) -> Result<(), BpfError> {
        self.any_present.set(0, u32::from(any), 0).map_err(|error| BpfError::table(ANY_PRESENT, 1, &error))
    }

    /// Reads the tables from the kernel. What a VIP without last name has is deleted: the writer of that VIP ended before it
    /// was done.
    fn read(&mut self) -> Result<Tables, BpfError> {
        let (tables, orphans) = self.look()?;
        orphans.into_iter().try_for_each(|(vip, write)| self.write_entry(vip, write))?;
        self.note_any_present(tables.values().any(|names| names.present.is_some()))?;
        Ok(tables)
    }

    /// What the tables in the kernel hold, and the deletions of what belongs to no VIP.
    fn look(&self) -> Result<(Tables, Vec<(IpAddr, TableWrite)>), BpfError> {
        let (mut tables, mut orphans) = (Tables::new(), Vec::new());
        for entry in self.vips.iter() {
            let (key, value) = entry.map_err(|error| BpfError::table(VIPS, self.sizes.vips, &error))?;
            if let Some(last) = of_last(value) {
                tables.insert(of_vip_key(key), VipNames { last, endpoints: BTreeMap::new(), present: None });
            }
        }
        for entry in self.present.iter() {
            let (key, value) = entry.map_err(|error| BpfError::table(PRESENT, self.sizes.vips, &error))?;
            let vip = of_vip_key(key);
            match (tables.get_mut(&vip), Present::decode(&value)) {
                (Some(names), Some(present)) => names.present = Some(present),
                _ => orphans.push((vip, TableWrite::NoPresent)),
            }
        }
        for entry in self.endpoints.iter() {
            let (key, value) = entry.map_err(|error| BpfError::table(ENDPOINTS, self.sizes.endpoints, &error))?;
            let Some((vip, name)) = of_endpoint_key(key) else { continue };
            match tables.get_mut(&vip) {
                Some(names) => drop(names.endpoints.insert(name, of_endpoint(value))),
                None => orphans.push((vip, TableWrite::NoEndpoint(name))),
            }
        }
        Ok((tables, orphans))
    }

    /// What pods of this node have passed on to others, and received from others, since the program was loaded. Of 4,096 pairs
    /// the last used ones.
    ///
    /// # Errors
    /// [`BpfError::Table`]
    pub fn pairs(&self) -> Result<Pairs, BpfError> {
        let mut pairs = Pairs::default();
        for entry in self.pairs.iter() {
            let (key, packets) = entry.map_err(|error| BpfError::table(PAIRS, 0, &error))?;
            pairs.add(key, packets);
        }
        Ok(pairs)
    }

    /// What the program has counted since it was loaded.
    ///
    /// # Errors
    /// [`BpfError::Table`]
    pub fn counts(&self) -> Result<Counts, BpfError> {
        let mut numbers = [0_u64; Count::ALL.len()];
        for (index, number) in (0..).zip(numbers.iter_mut()) {
            let values = self.counts.get(&index, 0).map_err(|error| BpfError::table(COUNTS, 0, &error))?;
            *number = values.iter().sum();
        }
        Ok(Counts::new(|kind| numbers[kind as usize]))
    }
}

/// What the program of this id, which another process has loaded, has in its tables for a VIP; `None` if nothing. Nothing is
/// written.
///
/// # Errors
/// [`BpfError::Find`], [`BpfError::Table`]
pub fn names_of(program: u32, vip: IpAddr) -> Result<Option<VipNames>, BpfError> {
    let loaded = SecondChance::find(program, own_version())?;
    Ok(loaded.look()?.0.remove(&vip))
}

/// A deletion of what is gone is not an error.
fn gone(result: Result<(), BpfError>) -> Result<(), BpfError> {
    match result {
        Err(BpfError::Table { errno: Some(nix::errno::Errno::ENOENT), .. }) => Ok(()),
        other => other,
    }
}

fn take(ebpf: &mut Ebpf, name: &str) -> Result<Map, String> {
    ebpf.take_map(name).ok_or_else(|| format!("there is no table {name}"))
}

fn limit(map: &Map) -> Result<u32, MapError> {
    let (Map::HashMap(data) | Map::PerCpuArray(data)) = map else { return Ok(0) };
    Ok(data.info()?.max_entries())
}

/// The tables of a program that is in the kernel already, by their names.
fn maps_of(program: &ProgramInfo) -> Result<Maps, String> {
    let ids = program.map_ids().map_err(|error| causes(&error))?.unwrap_or_default();
    let mut found = BTreeMap::new();
    for id in ids {
        let data = MapData::from_id(id).map_err(|error| causes(&error))?;
        let name = data.info().map_err(|error| causes(&error))?.name_as_str().unwrap_or_default().to_owned();
        found.insert(name, data);
    }
    let mut named = |name: &str| found.remove(name).ok_or_else(|| format!("it has no table {name}"));
    Ok([
        Map::HashMap(named(ENDPOINTS)?),
        Map::HashMap(named(VIPS)?),
        Map::HashMap(named(PRESENT)?),
        Map::Array(named(ANY_PRESENT)?),
        Map::PerCpuArray(named(COUNTS)?),
        Map::LruHashMap(named(PAIRS)?),
    ])
}
